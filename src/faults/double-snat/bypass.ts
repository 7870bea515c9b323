import { nameOf } from '../../explain/reading/attempts.js';
import type { Case, EntryEnd } from '../../explain/diagnose.js';
import type { BypassReason, Evidence } from '../../explain/finding.js';
import { identity, type Crossing } from './crossing.js';
import { duration, hex, hex16, hex32 } from '../../explain/wording.js';

export interface Bypass {
  attempt: number;
  why: BypassReason;
  /** the proof with its arithmetic */
  text: string;
  /** one sentence for the summary */
  short: string;
  evidence: Evidence[];
}

/**
 * Why the first good SYN after spoiled ones escaped the second SNAT. nat rules run only for a NEW
 * conntrack entry and the retransmission bears no mark, so what remains to be told is why it did
 * not meet the outer entry that the first SYN left behind, or was not spoiled by it.
 */
export function bypassOf(exchange: Case, all: readonly Crossing[]): Bypass | null {
  const index = all.findIndex(
    (c, i) =>
      i > 0 &&
      !c.badChecksum &&
      c.fate === 'delivered' &&
      (c.sent !== null || c.entry !== null) &&
      all.slice(0, i).some((earlier) => earlier.badChecksum),
  );
  if (index < 0) return null;
  const through = all[index]!;
  const before = all
    .slice(0, index)
    .findLast((c) => c.badChecksum && (c.sent !== null || c.entry !== null));
  if (!before) return null;
  const proof = (...list: (Crossing['sent'] | undefined)[]): Evidence[] =>
    list.flatMap((o) => (o ? [o.evidence] : []));
  const retransmissions = exchange.observations.filter((o) => o.point === 'tcp.retransmit');
  const at = retransmissions.findIndex((o) => Math.abs(o.time - through.startedAt) < 500e6);
  const began = exchange.observations.find((o) => o.txrehash !== null);
  const [previous, retransmit] = [retransmissions[at - 1] ?? began, retransmissions[at]];
  const turnedOn = previous?.txrehash === 0 && retransmit?.txrehash === 1;
  const base = { attempt: through.n };
  const gapMs = (through.startedAt - before.startedAt) / 1e6;
  const newHash = (through.entry ?? through.sent)!.hash;
  const oldHash = (before.entry ?? before.sent)!.hash;

  const known = through.outerCt && before.outerCt;
  const sameTuple = known && through.outerCt!.originalKey === before.outerCt!.originalKey;
  const sameEntry = known && identity(through.outerCt!) === identity(before.outerCt!);

  if (known && !sameTuple && newHash !== oldHash)
    return {
      ...base,
      why: 'rehash',
      text:
        `At ${through.n > 2 ? `retransmission timeout ${through.n - 1}` : 'its retransmission timeout'} the socket chose a new hash${turnedOn ? ', for SO_TXREHASH had been turned on meanwhile' : ''}: ${hex32(oldHash)} became ${hex32(newHash)}, so the outer source port became ${through.expectedPort} instead of ${before.expectedPort}. ` +
        `That is another outer tuple, so another conntrack entry; the packet is unmarked, no SNAT is set up for it, and the checksum ${hex16(through.checksum?.after ?? 0)} stays right.`,
      short: `${nameOf(exchange, through.n)}, ${duration(gapMs)} later, escaped: the socket had chosen a new hash${turnedOn ? ' (SO_TXREHASH had been turned on)' : ''}, so it left from another outer port, met no conntrack entry with a SNAT, and bore no mark for the rule to match.`,
      evidence: proof(
        ...(turnedOn ? [previous] : []),
        ...[retransmit, through.entry, through.nat, through.sent],
      ),
    };

  if (sameEntry && through.snat)
    return {
      ...base,
      why: 'offload-changed',
      text:
        `The same outer entry ${through.outerCt!.address} still translates port ${through.expectedPort} to ${through.wirePort}, but this time the checksum follows (${hex16(through.checksum?.after ?? 0)}): ` +
        `the packet's checksum was finished before NAT, so checksum offload of the tunnel was switched off in between${offloadFact(before, through)}.`,
      short: `${nameOf(exchange, through.n)} was translated like the others, but checksum offload had been switched off by then, so NAT could keep the checksum right.`,
      evidence: proof(before.sent, through.sent, through.nat),
    };

  const remaining = before.outerCt?.timeoutMs ?? null;
  const world = before.sent?.world;
  const setting = world?.number(
    before.sent!.netns,
    'net.netfilter.nf_conntrack_udp_timeout',
    before.startedAt,
  );
  const timeoutMs = setting != null ? setting * 1000 : remaining;
  if (known && sameTuple && !sameEntry && timeoutMs !== null) {
    if (through.entry !== null && through.entry.mark !== 0 && !through.snat)
      return {
        ...base,
        why: 'rules-changed',
        text:
          `${nameOf(exchange, through.n)} bears mark ${hex(through.entry.mark)} again (its inner entry was made anew too), and yet its new outer entry is not translated: ` +
          `the rule that masqueraded the outer packet of ${nameOf(exchange, before.n)} is not there any more.`,
        short: `${nameOf(exchange, through.n)} escaped because the rules had been changed in between.`,
        evidence: [
          ...proof(through.entry, through.nat, through.sent),
          ...rulesChange(before, through),
        ],
      };
    // an expired entry is deleted by whoever comes upon it, often the very packet that wants it
    const until = (through.nat ?? through.sent ?? through.entry)?.time ?? through.startedAt;
    const end = exchange.deletionOf(before.sent ?? before.nat!, until);
    const hash =
      newHash === oldHash
        ? `The hash stayed ${hex32(newHash)}, so the outer tuple is the same`
        : `Hash ${hex32(newHash)} gives the outer port that ${hex32(oldHash)} gave, so the outer tuple is the same`;
    const seen = end ? ` ${endText(exchange, end, before, timeoutMs)}` : '';
    // who deleted it need not have waited for the packet that found it gone
    const aloneMs = end?.pid ? (end.time - before.startedAt) / 1e6 : gapMs;
    // Timers fire in jiffies: an entry may be found expired up to one tick early or late.
    const expired = aloneMs >= timeoutMs - JIFFY_MS;
    const early = duration(timeoutMs - aloneMs);
    return expired
      ? {
          ...base,
          why: 'conntrack-expired',
          text:
            `${hash}. ${nameOf(exchange, before.n)} had refreshed its entry for ${duration(timeoutMs)}; ${nameOf(exchange, through.n)} came ${duration(gapMs)} later, ${gapMs >= timeoutMs ? `${duration(gapMs)} ≥ ${duration(timeoutMs)}` : `within one tick of ${duration(timeoutMs)}`}: the entry was gone.${seen} ` +
            `A new entry was made for an unmarked packet, without SNAT, and the checksum ${hex16(through.checksum?.after ?? 0)} stays right.`,
          short: `${nameOf(exchange, through.n)} escaped because the gap of ${duration(gapMs)} before it outlived the ${duration(timeoutMs)} that the outer conntrack entry lives: with the entry gone, and without a mark, nothing translated it again.`,
          evidence: [
            ...proof(before.sent),
            ...(end ? [end.evidence] : []),
            ...proof(through.entry, through.nat, through.sent),
          ],
        }
      : {
          ...base,
          why: 'conntrack-deleted',
          text:
            `${hash}, and the entry that ${nameOf(exchange, before.n)} had refreshed for ${duration(timeoutMs)} ` +
            (end?.pid
              ? `was deleted ${early} before its time.${seen} ${nameOf(exchange, through.n)} came after ${duration(gapMs)}, and a new entry was made.`
              : `had ${early} left when ${nameOf(exchange, through.n)} came after ${duration(gapMs)}; yet a new entry was made: somebody deleted the old one (conntrack -D, a flush, an address that went).${seen}`),
          short: `${nameOf(exchange, through.n)} escaped because the outer conntrack entry had been deleted ${early} before its time.`,
          evidence: [
            ...proof(before.sent),
            ...(end ? [end.evidence] : []),
            ...proof(through.nat, through.sent),
          ],
        };
  }
  return null;
}

/** One tick at HZ=100, the coarsest in use. */
const JIFFY_MS = 10;

/** The end of an outer entry as nf_ct_delete (net/netfilter/nf_conntrack_core.c) showed it. */
function endText(
  exchange: Case,
  { time, pid }: EntryEnd,
  before: Crossing,
  timeoutMs: number,
): string {
  const after = duration((time - before.startedAt) / 1e6);
  return pid
    ? `It was seen being deleted ${after} after ${nameOf(exchange, before.n)}, by netlink port ${pid}.`
    : `The kernel was seen deleting it ${after} after its last packet, ${duration(timeoutMs)} being its time.`;
}

/** The facts that tell of the change, where they were recorded. */
function rulesChange({ sent }: Crossing, through: Crossing): Evidence[] {
  const then = sent?.world.rules(sent.netns, sent.time);
  const now = sent?.world.rules(sent.netns);
  return then && now && then.fact.digest !== now.fact.digest && through.sent
    ? [then.evidence, now.evidence]
    : [];
}

function offloadFact(before: Crossing, through: Crossing): string {
  const { entry } = through;
  if (!entry) return '';
  const then = entry.world.device(entry.netns, entry.ifindex, before.startedAt);
  const now = entry.world.device(entry.netns, entry.ifindex, Infinity);
  const name = 'tx-checksum-ip-generic';
  return then?.fact.offloads[name] === true && now?.fact.offloads[name] === false
    ? ` (${now.fact.name}: ${name} went from on to off)`
    : '';
}
