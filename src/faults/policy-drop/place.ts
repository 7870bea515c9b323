import type { DroppingRule, RulesFact } from '../../event/fact.js';
import type { Case } from '../../explain/diagnose.js';
import type { Known } from '../../explain/world.js';
import {
  IPS_CONFIRMED,
  IPS_SRC_NAT_DONE,
  type Observation,
} from '../../explain/exchanges/observation.js';
import { meets, type Hook, type Meets } from '../../explain/reading/rule-match.js';

/** IPS_DST_NAT_DONE, include/uapi/linux/netfilter/nf_conntrack_common.h: nat/PREROUTING or OUTPUT is behind it */
const IPS_DST_NAT_DONE = 1 << 8;
/** NF_IP_PRI_CONNTRACK */
const CONNTRACK = -200;

/** A rule that may have dropped a packet. */
export interface Candidate {
  rule: DroppingRule;
  meets: Exclude<Meets, 'no'>;
}

/** What the kernel's own place tells of who dropped it. */
export function droppedBy(drop: Observation): 'nft' | 'netfilter' | null {
  const location = drop.world.symbol(drop.location);
  if (/^nft_do_chain/.test(location)) return 'nft';
  return /^nf_hook_slow|^0x/.test(location) ? 'netfilter' : null;
}

/**
 * The packet was refused when its new conntrack entry was to be inserted, after every rule:
 * nf_confirm drops where both NATs are done and the entry is not confirmed (measured on 6.18).
 */
export function refusedByConntrack(drop: Observation): boolean {
  const both = IPS_DST_NAT_DONE | IPS_SRC_NAT_DONE;
  return (
    droppedBy(drop) === 'netfilter' &&
    drop.ct !== null &&
    (drop.ct.status & (both | IPS_CONFIRMED)) === both
  );
}

/**
 * The hooks at which a packet may have been dropped: skb->dev is none in OUTPUT, the device it came
 * by up to INPUT and FORWARD, and the one it leaves by in POSTROUTING.
 */
export function hooksOf(exchange: Case, drop: Observation): Hook[] {
  if (drop.ifindex === 0) return ['output'];
  // Where data passed is not recorded.
  const data = exchange.kind === 'tcp-transfer';
  const came = exchange.observations.some(
    (o) =>
      (o.point === 'device.receive' || o.point === 'tunnel.receive') &&
      o.netns === drop.netns &&
      o.ifindex === drop.ifindex &&
      o.attempt === drop.attempt &&
      o.tunnel === drop.tunnel &&
      o.time <= drop.time,
  );
  if (!came && !data) return ['postrouting'];
  const { address } = drop.headers.outer.destination(drop.record);
  const later: Hook = drop.world.owns(drop.netns, address) ? 'input' : 'forward';
  const routed = drop.ct !== null && (drop.ct.status & IPS_DST_NAT_DONE) !== 0;
  return [
    ...(routed ? [] : (['prerouting'] as const)),
    later,
    ...(data ? (['postrouting'] as const) : []),
  ];
}

/**
 * The rules of the namespace at that time; the latest ones when they changed so near to it that
 * either may have been in force.
 */
export function rulesAt(drop: Observation): { known: Known<RulesFact>; sure: boolean } | null {
  const then = drop.world.rules(drop.netns, drop.time);
  const known = then ?? drop.world.rules(drop.netns);
  return known && { known, sure: then !== null };
}

/** The rules that may have dropped it, surest first; null when the rules there are not known. */
export function candidates(exchange: Case, drop: Observation): Candidate[] | null {
  const dropping = rulesAt(drop)?.known.fact.dropping;
  if (!dropping) return null;
  const hooks = hooksOf(exchange, drop);
  const nft = droppedBy(drop) === 'nft';
  const found = dropping.flatMap((rule): Candidate[] => {
    if (!hooks.includes(rule.hook)) return [];
    // nft_do_chain frees what its own rules drop; in old kernels nf_hook_slow frees that too
    if (nft && rule.backend === 'iptables-legacy') return [];
    // without an entry it did not come past conntrack, or conntrack is not in use there
    if (drop.ct !== null && rule.priority < CONNTRACK) return [];
    if (drop.ct === null && rule.priority > CONNTRACK && tracked(exchange, drop)) return [];
    const answer = meets(rule, drop);
    return answer === 'no' ? [] : [{ rule, meets: answer }];
  });
  const legacy = found.filter(({ rule }) => rule.backend === 'iptables-legacy');
  const fitting = legacy.length > 0 ? legacy : found;
  return unique([
    ...fitting.filter((one) => one.meets === 'yes'),
    ...fitting.filter((one) => one.meets === 'maybe'),
  ]);
}

/** Did another packet of the exchange that came the same way bear a conntrack entry there? */
function tracked(exchange: Case, drop: Observation): boolean {
  return exchange.observations.some(
    (o) => o.netns === drop.netns && o.ct !== null && o.tunnel === drop.tunnel,
  );
}

/** A rule to which several ways lead stands for all of them. */
function unique(list: readonly Candidate[]): Candidate[] {
  const seen = new Set<string>();
  return list.filter(({ rule }) => {
    const key = `${rule.backend} ${rule.family} ${rule.table} ${rule.chain} ${rule.handle}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}
