import type { SnatPath } from '../../event/fact.js';
import type { Case } from '../../explain/diagnose.js';
import type { Prediction } from '../../explain/finding.js';
import { isWithoutRule } from './without-rule.js';
import { predictRecovery, synGaps } from '../../explain/reading/schedule.js';
import { needsNoMark, type Crossing } from './crossing.js';
import { toMicroseconds } from '../../explain/wording.js';

/**
 * When the connect gets through, from the settings that were in force when its first SYN left, and
 * not from what happened then; its socket's SO_TXREHASH counts as it is at each timeout. Only the
 * text tells of chances that came in between.
 *
 * Retransmissions bear no mark, so a rule that asks for one masquerades none of them. Gaps come from
 * the client's own SYN schedule where its namespace is known, else from the SYNs seen so far, doubled
 * on.
 */
export function predict(
  exchange: Case,
  crossings: readonly Crossing[],
  sender: number,
  path: SnatPath | null,
): Prediction {
  const { observations, world, startedAt } = exchange;
  const socket = observations.find(
    (o) => o.point === 'socket.state' || o.point === 'tcp.retransmit',
  );
  const home = socket?.netns ?? exchange.netns;
  const delivered = crossings.find((c) => c.fate === 'delivered');
  const observedMs = delivered ? toMicroseconds((delivered.startedAt - startedAt) / 1e6) : null;

  const timeoutS = world.number(sender, 'net.netfilter.nf_conntrack_udp_timeout', startedAt);
  const retries = socket ? world.number(home, 'net.ipv4.tcp_syn_retries', startedAt) : null;
  const linear = world.number(home, 'net.ipv4.tcp_syn_linear_timeouts', startedAt) ?? 0;
  const sysctl = socket ? world.number(home, 'net.core.txrehash', startedAt) : null;
  const own = observations.find((o) => o.txrehash !== null)?.txrehash ?? null;
  const rehash = own ?? sysctl;

  if (needsNoMark(path, crossings))
    return {
      recoverAtMs: 'never',
      observedMs,
      text: 'the rule that masquerades the outer packet asks for no mark: every retransmission is masqueraded too, whatever its port and entry',
    };
  const [first] = crossings.filter((c) => c.snat);
  const borrowed = first !== undefined && isWithoutRule(first);
  if (first?.translation?.how === 'unknown' && path === null)
    return {
      recoverAtMs: null,
      observedMs,
      text: 'what translates the outer packets is not known: a rule that asks for no mark would translate every one',
    };
  if (exchange.kind === 'dns-lookup' && borrowed)
    return {
      recoverAtMs: null,
      observedMs,
      text: 'a resolver’s repeats keep their socket, so their outer port: when they get through depends on what translates it, not on them',
    };
  if (exchange.kind === 'dns-lookup')
    return {
      recoverAtMs: 'never',
      observedMs,
      text: 'a resolver’s repeats keep their socket, so their outer port: they meet the entry that spoils them, and one that comes after its time finds the inner entry gone too, is new, and is marked again',
    };
  if (timeoutS === null)
    return {
      recoverAtMs: null,
      observedMs,
      text: 'nf_conntrack_udp_timeout of the sending node is not known',
    };
  let gaps: number[];
  let schedule: string;
  if (retries !== null) {
    gaps = synGaps(retries, linear);
    schedule = `the client's own SYN schedule (tcp_syn_retries=${retries}, tcp_syn_linear_timeouts=${linear}: gaps of ${seconds(gaps)} s)`;
  } else {
    gaps = crossings.slice(1).map((c, i) => (c.startedAt - crossings[i]!.startedAt) / 1e6);
    for (let gap = (gaps.at(-1) ?? 500) * 2; gaps.length < 6; gap *= 2) gaps.push(gap);
    schedule = 'the SYNs seen so far and a doubling gap (the client’s own settings are not known)';
  }
  const timeoutMs = timeoutS * 1000;
  const rehashFrom = firstRehash(exchange, crossings, home, rehash);
  const recoverAtMs = predictRecovery(gaps, rehashFrom, timeoutMs);
  const outlived = gaps.slice(0, rehashFrom - 1).some((gap) => gap >= timeoutMs);
  const otherEntry = 'has another outer port and another conntrack entry';
  let rule: string;
  if (rehashFrom === 1 && rehash !== 0)
    rule = `the socket picks a new hash at each retransmission timeout (${rehash === 1 ? 'txrehash=1' : 'as was seen'}), so the first retransmission ${otherEntry}`;
  else if (rehashFrom < Infinity && !outlived)
    rule =
      `the hash ${rehashFrom > 1 ? 'stayed at first' : 'was to stay'}${rehash === 0 ? ' (txrehash=0)' : ''} and is a new one from retransmission timeout ${rehashFrom} on` +
      `${rehash === 0 ? ' (SO_TXREHASH was turned on before it)' : ''}, so retransmission ${rehashFrom} ${otherEntry}`;
  else
    rule = `the hash stays (${rehash === 0 ? 'txrehash=0' : 'no local socket that could choose another'}), so the same outer entry translates every retransmission until a gap reaches its timeout of ${timeoutS} s${borrowed ? ', if no other flow refreshes it' : ''}`;
  const inUse = crossings.some(
    (c) =>
      c.n > rehashFrom && c.badChecksum && (isWithoutRule(c) || c.translation?.how === 'own-entry'),
  );
  return {
    recoverAtMs: recoverAtMs === 'never' ? 'never' : toMicroseconds(recoverAtMs),
    observedMs,
    text:
      `${rule}; by ${schedule}${recoverAtMs === 'never' ? ', none of which is that long' : ''}` +
      (inUse
        ? '. It came otherwise: a new hash may, by chance, give a port for which there is an entry'
        : ''),
  };
}

/**
 * The first retransmission that has a new hash, from 1; Infinity: none so far.
 * tcp_write_timeout (net/ipv4/tcp_timer.c) asks sk_txrehash at each timeout, before tcp_retransmit_skb.
 * @param rehash what the socket began with; null: not known, and the hashes seen tell
 */
function firstRehash(
  exchange: Case,
  crossings: readonly Crossing[],
  home: number,
  rehash: number | null,
): number {
  if (rehash === 1) return 1;
  const timeouts = exchange.observations.filter(
    (o) => o.point === 'tcp.retransmit' && o.netns === home,
  );
  const hash = crossings[0]?.entry?.hash;
  const index =
    rehash === 0
      ? timeouts.findIndex((o) => o.txrehash === 1) + 1
      : crossings.findIndex((c) => c.entry !== null && hash !== undefined && c.entry.hash !== hash);
  return index > 0 ? index : Infinity;
}

function seconds(gaps: readonly number[]): string {
  return gaps.map((ms) => String(ms / 1000)).join(', ');
}
