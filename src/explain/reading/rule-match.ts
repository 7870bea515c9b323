import type { DroppingRule, RuleCondition } from '../../event/fact.js';
import type { Endpoint } from '../../event/headers.js';
import {
  IPS_CONFIRMED,
  IPS_DST_NAT,
  IPS_SEEN_REPLY,
  IPS_SRC_NAT,
} from '../exchanges/observation.js';
import type { Observation } from '../exchanges/observation.js';

/** Does a packet meet a rule's conditions? `maybe`: some cannot be judged from its event. */
export type Meets = 'yes' | 'no' | 'maybe';

export type Hook = DroppingRule['hook'];

/**
 * Judges every condition on the way to a rule for the packet of an event at one of its hooks.
 * @param source the packet's own at that hook, where the event saw it translated
 */
export function meets(
  rule: Pick<DroppingRule, 'hook' | 'when'>,
  o: Observation,
  source: Endpoint = o.headers.outer.source(o.record),
): Meets {
  let result: Meets = 'yes';
  for (const [i, condition] of rule.when.entries()) {
    let one = judge(condition, rule.hook, o, source);
    // the mark is that of the end: on the way rules may have changed it
    if (condition.match === 'mark' && i < rule.when.length - 1) one = 'maybe';
    if (one === 'no') return 'no';
    if (one === 'maybe') result = 'maybe';
  }
  return result;
}

function judge(condition: RuleCondition, hook: Hook, o: Observation, from: Endpoint): Meets {
  const layer = o.headers.outer;
  const sure = (holds: boolean, negated: boolean): Meets => (holds !== negated ? 'yes' : 'no');
  switch (condition.match) {
    case 'source':
    case 'destination': {
      const { address } = condition.match === 'source' ? from : layer.destination(o.record);
      return sure(within(numberOf(address), condition.values), condition.negated);
    }
    case 'protocol':
      return sure(within(BigInt(layer.protocol), condition.values), condition.negated);
    case 'sport':
    case 'dport':
      if (layer.l4 < 0) return 'maybe';
      return sure(
        within(BigInt(condition.match === 'sport' ? from.port : layer.dport), condition.values),
        condition.negated,
      );
    case 'mark': {
      const bits = (o.mark & condition.mask) >>> 0;
      return sure(
        condition.values.some(([low, high]) => bits >= low && bits <= high),
        condition.negated,
      );
    }
    case 'iif':
    case 'oif': {
      // skb->dev is the device it came by up to FORWARD, the one it leaves by in POSTROUTING
      const known = condition.match === 'iif' ? hook !== 'postrouting' : hook === 'postrouting';
      if (condition.match === 'iif' && hook === 'output') return sure(false, condition.negated);
      if (!known || o.ifindex === 0) return 'maybe';
      const name = o.world.deviceName(o.netns, o.ifindex);
      return sure(
        condition.names.some((pattern) => sameDevice(pattern, name)),
        condition.negated,
      );
    }
    case 'family':
      return sure((condition.family === 'ip6') === (layer.version === 6), condition.negated);
    case 'local': {
      const end = condition.which === 'source' ? from : layer.destination(o.record);
      return sure(o.world.owns(o.netns, end.address), condition.negated);
    }
    case 'ctstate':
      return sure(
        statesOf(o).some((state) => condition.states.includes(state)),
        condition.negated,
      );
    case 'unknown':
      return 'maybe';
  }
}

/** States as rules name them (xt_conntrack.h); a packet without an entry is INVALID or UNTRACKED. */
function statesOf(o: Observation): string[] {
  const { ct } = o;
  if (!ct) return ['INVALID', 'UNTRACKED'];
  const states = (ct.status & IPS_CONFIRMED) === 0 ? ['NEW'] : [];
  if (ct.status & IPS_CONFIRMED)
    states.push((ct.status & IPS_SEEN_REPLY) !== 0 ? 'ESTABLISHED' : 'NEW');
  if (ct.status & IPS_SRC_NAT) states.push('SNAT');
  if (ct.status & IPS_DST_NAT) states.push('DNAT');
  return states;
}

const within = (value: bigint, ranges: readonly [string, string][]): boolean =>
  ranges.some(([low, high]) => value >= BigInt(low) && value <= BigInt(high));

/** `eth+` (iptables) and `eth*` (nft) mean every name that begins so. */
const sameDevice = (pattern: string, name: string): boolean =>
  /[+*]$/.test(pattern) ? name.startsWith(pattern.slice(0, -1)) : pattern === name;

/** An address as the number that its bytes are, in the form that `Layer.source` writes. */
export function numberOf(address: string): bigint {
  if (!address.includes(':'))
    return address.split('.').reduce((sum, part) => (sum << 8n) | BigInt(part), 0n);
  const [head = '', tail] = address.split('::');
  const groups = (text: string | undefined): string[] => (text ? text.split(':') : []);
  const first = groups(head);
  const last = groups(tail);
  const zeros = tail === undefined ? 0 : 8 - first.length - last.length;
  return [...first, ...Array<string>(zeros).fill('0'), ...last].reduce(
    (sum, group) => (sum << 16n) | BigInt(`0x${group}`),
    0n,
  );
}
