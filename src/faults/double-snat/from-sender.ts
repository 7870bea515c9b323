import { formatEndpoint } from '../../event/headers.js';
import { HOOKS } from '../../event/names.js';
import type { Case } from '../../explain/diagnose.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import type { Claim, Diagnosis, RuledOut } from '../../explain/finding.js';
import { nameOf, nounOf } from '../../explain/reading/attempts.js';
import { dropText, evidenceOf } from '../../explain/reading/fates.js';
import { refusedChecksums, rewriting } from '../../explain/reading/functions.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { hex, hex16 } from '../../explain/wording.js';
import { attemptsOf } from './attempts.js';
import { bypassOf } from './bypass.js';
import { isSpared, needsNoMark, type Crossing } from './crossing.js';
import { defectOf, type Defect } from './defect.js';
import { predict } from './prediction.js';
import { remedies } from './remedies.js';
import { meets, pathsOf, snatPath, type KnownPath } from './rules.js';
import { isSnat } from './translation.js';
import {
  isWithoutRule,
  translationDoubts,
  withoutRuleClaim,
  withoutRuleSummary,
} from './without-rule.js';
import { deliveredClaim, outerFamily, titleOf } from './wording.js';

/** The sending node was traced: what spoiled the packet was seen. */
export function fromSender(exchange: Case, all: Crossing[], first: Crossing): Diagnosis | null {
  const sent = first.sent!;
  const defect = defectOf(first);
  if (!first.snat || defect === null) return null;
  const { world } = sent;
  const subject = subjectOf(exchange);
  const bypass = bypassOf(exchange, all);
  const spared = isSpared(all);
  const others = isWithoutRule(first);
  const rules = snatPath(first.entry, first.startedAt, { spared, others });
  const loweredFor = translationDoubts(exchange, first, spared);
  const anyMark =
    first.translation?.how === 'unknown' && rules === null
      ? null
      : needsNoMark(rules?.path ?? null, all);
  const prediction = predict(exchange, all, sent.netns, rules?.path ?? null);
  const peerSeen = all.some((c) => c.arrived !== null || c.exit !== null);
  const { chain, device } = senderChain(exchange, all, first, defect, rules);
  if (bypass) {
    const through = all[bypass.attempt - 1]!;
    if (through.entry)
      chain.push({
        claim: 'retransmission-unmarked',
        text:
          others && first.entry?.mark === 0
            ? `${nameOf(exchange, through.n)} enters the tunnel with mark ${hex(through.entry.mark)}, as ${nameOf(exchange, first.n)} did.`
            : `${nameOf(exchange, through.n)} belongs to the inner entry that ${nameOf(exchange, 1)} made: nat rules run only for the first packet of an entry, ` +
              `so nothing marks it and it enters the tunnel with mark ${hex(through.entry.mark)}. The rule of the second SNAT does not match it.`,
        evidence: evidenceOf(through.entry),
      });
    chain.push({ claim: 'bypass', text: bypass.text, evidence: bypass.evidence });
  }
  chain.push(...deliveredClaim(exchange, all));

  return {
    verdict: 'double-snat',
    defect,
    title: titleOf(exchange, all, subject.service ?? subject.backend),
    summary: summary(exchange, all, first, defect, device, rules, bypass, peerSeen),
    cause: `double-snat/${defect}/${world.netnsName(sent.netns)}/${device}`,
    confidence: loweredFor.length > 0 ? 'likely' : 'proved',
    loweredFor,
    subject,
    attempts: attemptsOf(exchange, all),
    bypass: bypass && { attempt: bypass.attempt, why: bypass.why, text: bypass.text },
    prediction,
    chain,
    ruledOut: ruledOutAtSender(exchange, all, first, peerSeen),
    remedies: remedies(
      defect,
      { device, port: sent.headers.outer.dport, outerFamily: outerFamily(sent) },
      rules?.path ?? null,
      anyMark,
    ),
  };
}

function senderChain(
  exchange: Case,
  all: Crossing[],
  first: Crossing,
  defect: Defect,
  rules: KnownPath | null,
): { chain: Claim[]; device: string } {
  const { observations } = exchange;
  const chain: Claim[] = [];
  const sent = first.sent!;
  const { world, netns } = sent;
  const node = world.netnsName(netns);
  const device = first.entry ? world.deviceName(netns, first.entry.ifindex) : 'the tunnel';
  const inner = observations.filter((o) => o.attempt === first.n && !o.tunnel && o.netns === netns);

  const marked = inner.find((o) => o.point === 'mark.set');
  const mark = first.entry?.mark ?? sent.mark;
  const stranger = isWithoutRule(first);
  // the rules of a packet that was masqueraded by others' doing are not its own
  const own = rules && (!stranger || meets(rules.path, mark)) ? rules : null;
  if (marked)
    chain.push({
      claim: 'marked',
      text:
        `In nat/${HOOKS[marked.hook]} on ${node} the ${nounOf(exchange)}'s mark goes from ${hex(marked.beforeMark)} to ${hex(marked.mark)}` +
        `${own?.path.marking[0] ? ` (${own.path.marking[0].text})` : ''}.`,
      evidence: [...evidenceOf(marked), ...(own?.path.marking[0] ? own.evidence : [])],
    });
  const firstSnat = [...inner.filter((o) => o.point === 'nat.setup'), first.entry].find(
    (o) => o !== null && isSnat(o.ct),
  );
  if (firstSnat?.ct)
    chain.push({
      claim: 'first-snat',
      text:
        `The inner packet is masqueraded: source ${formatEndpoint(firstSnat.ct.original.source)} becomes ${formatEndpoint(firstSnat.ct.reply.destination)}` +
        `${own?.path.first ? ` (${own.path.first.text})` : ''}. This is the first SNAT.`,
      evidence: [...evidenceOf(firstSnat), ...(own?.path.first ? own.evidence : [])],
    });
  if (first.entry) {
    const paths = pathsOf(first.entry, first.startedAt, isSpared(all));
    const noRule = paths?.complete && !paths.list.some((path) => meets(path, mark));
    chain.push(
      stranger && mark === 0
        ? {
            claim: 'encapsulated-unmarked',
            text: `${device} encapsulates the ${nounOf(exchange)}, which bears mark 0x0${noRule ? ': no rule that was found gives such a packet of the tunnel another port' : ''}.`,
            evidence: [
              ...evidenceOf(first.entry, first.nat ?? sent),
              ...(noRule ? paths.evidence : []),
            ],
          }
        : {
            claim: 'encapsulated-with-mark',
            text:
              `${device} encapsulates the same skb: the conntrack reference goes, the mark ${hex(mark)} stays ` +
              `(skb_scrub_packet clears it only when it leaves the namespace).`,
            evidence: evidenceOf(first.entry, first.nat ?? sent),
          },
    );
  }
  chain.push(
    stranger
      ? withoutRuleClaim(exchange, first)
      : {
          claim: 'second-snat',
          text:
            `The outer packet is a new flow for conntrack${mark === 0 || needsNoMark(rules?.path ?? null, all) ? '' : ` and still bears mark ${hex(mark)}`}: nat/POSTROUTING masquerades it${firstSnat ? ' again' : ''}` +
            `${rules ? ` (${rules.path.second.text})` : ''}, and its source port goes from ${first.expectedPort} to ${first.wirePort}. This is the ${firstSnat ? 'second ' : ''}SNAT.`,
          evidence: [...evidenceOf(first.nat, sent), ...(rules ? rules.evidence : [])],
        },
  );
  const { before, after, expected } = first.checksum!;
  const rewritten = rewriting(exchange, sent);
  chain.push({
    claim: 'checksum-broken',
    text:
      (defect === 'udpcsum-not-updated'
        ? `The outer UDP checksum stays ${hex16(after)} while the port changes: NAT leaves it alone because ip_summed is CHECKSUM_PARTIAL, which belongs to the inner ${exchange.kind === 'dns-lookup' ? 'UDP' : 'TCP'}. ` +
          `${hex16(after)} + ${hex16(first.expectedPort!)} − ${hex16(first.wirePort!)} = ${hex16(expected!)} is what the receiver expects (one's complement).`
        : `The outer UDP checksum was ${before === null ? '0' : hex16(before)}, that is none, and becomes ${hex16(after)}: NAT "updates" it because ip_summed is CHECKSUM_PARTIAL. The receiver expects ${hex16(expected!)} or none.`) +
      (rewritten ? ` ${atTheFunction(rewritten)}` : ''),
    evidence: evidenceOf(rewritten, first.nat, sent),
  });

  chain.push(fateClaim(exchange, first));
  const later = all.filter((c) => c.n > first.n && c.badChecksum && c.fate !== 'delivered');
  const existing = later.filter((c) => c.translation?.how === 'own-entry');
  if (existing[0]) {
    const one = existing.length === 1;
    const sameHash = existing.every((c) => hashOf(c) === hashOf(first));
    chain.push({
      claim: 'existing-entry-translates-again',
      text:
        `${namesOf(exchange, existing)} ${one ? 'is' : 'are'} not marked${first.entry?.mark ? ' any more' : ''} (mark ${hex(existing[0].entry?.mark ?? existing[0].sent?.mark ?? 0)}), but ${one ? 'has' : 'have'} ${sameHash ? 'the same hash, so the same outer tuple' : 'the same outer tuple (another hash may give the same port)'}: ` +
        `the existing entry ${existing[0].outerCt!.address} still applies its SNAT, is refreshed by it, and the checksum is wrong again${likewise(existing)}.`,
      evidence: existing.flatMap((c) => evidenceOf(c.entry, c.sent, c.arrived, c.drop)),
    });
  }
  for (const c of later) {
    if (!isWithoutRule(c)) continue;
    const claim = withoutRuleClaim(exchange, c);
    chain.push({
      ...claim,
      text: `${claim.text} The checksum is wrong again${likewise([c])}.`,
      evidence: [...claim.evidence, ...evidenceOf(c.arrived, c.drop)],
    });
  }
  const anew = later.filter((c) => c.translation?.how === 'rule');
  if (anew[0])
    chain.push({
      claim: 'new-entry-translated-too',
      text:
        `${namesOf(exchange, anew)} ${anew.length === 1 ? 'makes a new outer entry' : 'make new outer entries'} (port ${anew[0].expectedPort} becomes ${anew[0].wirePort}), masqueraded as well: ` +
        `${anew.every((c) => c.entry?.mark === 0) ? 'the rule asks for no mark that a retransmission would lack' : 'marked again, because the inner entry was made anew'}${likewise(anew)}.`,
      evidence: anew.flatMap((c) => evidenceOf(c.nat, c.sent, c.arrived, c.drop)),
    });
  return { chain, device };
}

/** What the function that rewrites made of the outer packet. */
function atTheFunction({ beforeSport, beforeCheck, headers, record }: Observation): string {
  const { outer } = headers;
  return `nf_nat_manip_pkt was given port ${beforeSport} with checksum ${hex16(beforeCheck)}, and left port ${outer.sport} with ${hex16(outer.check(record))}.`;
}

function fateClaim(exchange: Case, c: Crossing): Claim {
  const name = nameOf(exchange, c.n);
  if (!c.drop)
    return {
      claim: 'peer-drop-expected',
      text: `${name} leaves with checksum ${hex16(c.checksum!.after)} instead of ${hex16(c.checksum!.expected!)}: any receiver that verifies it drops it. Expected, not seen: the peer was not traced.`,
      evidence: evidenceOf(c.sent),
    };
  const refused = refusedChecksums(exchange, c.drop);
  const told = refused.length > 0 || exchange.reasonName(c.drop).includes('CSUM');
  return {
    claim: 'dropped-by-peer',
    text:
      `${name} reaches ${c.drop.world.netnsName(c.drop.netns)}, ` +
      (told
        ? `which verifies the checksum and drops it: ${dropText(exchange, c.drop)}.`
        : `and is dropped: ${dropText(exchange, c.drop)}. The kernel does not name the checksum, which is wrong, as the reason.`),
    evidence: evidenceOf(c.arrived, ...refused, c.drop),
  };
}

function likewise(crossings: readonly Crossing[]): string {
  const all = crossings.every((c) => c.drop);
  return all ? '; dropped likewise' : '; its drop is expected, not seen';
}

function namesOf(exchange: Case, crossings: readonly Crossing[]): string {
  const numbers = crossings.map((c) => c.n);
  const noun = exchange.kind === 'dns-lookup' ? 'queries' : 'SYNs';
  return numbers.length === 1
    ? nameOf(exchange, numbers[0]!)
    : `${noun} ${numbers.slice(0, -1).join(', ')} and ${numbers.at(-1)}`;
}

function ruledOutAtSender(
  exchange: Case,
  all: Crossing[],
  first: Crossing,
  peerSeen: boolean,
): RuledOut[] {
  const out: RuledOut[] = [];
  if (first.nat && first.checksum)
    out.push({
      verdict: 'checksum-offload',
      text: `the checksum was ${first.checksum.before === 0 ? 'none' : `right (${hex16(first.checksum.before!)})`} before the second SNAT: no device computed it wrongly`,
      evidence: evidenceOf(first.nat),
    });
  if (first.drop)
    out.push({
      verdict: 'lost-on-the-wire',
      text: `the ${nounOf(exchange)} arrived at the peer and was dropped there`,
      evidence: evidenceOf(first.arrived, first.drop),
    });
  else if (!peerSeen)
    out.push({
      verdict: 'lost-on-the-wire',
      text: 'the packet is spoiled before it leaves; whether the wire loses it too cannot be seen from here',
      evidence: evidenceOf(first.sent),
    });
  const policy = all.find((c) => c.drop && /NETFILTER/.test(exchange.reasonName(c.drop)));
  if (!policy && exchange.attached('packet.drop'))
    out.push({
      verdict: 'policy-drop',
      text: `no rule of a traced namespace dropped a ${nounOf(exchange)} of it (no packet.drop with a netfilter reason)`,
      evidence: evidenceOf(first.sent),
    });
  return out;
}

function summary(
  exchange: Case,
  all: Crossing[],
  first: Crossing,
  defect: Defect,
  device: string,
  rules: KnownPath | null,
  bypass: ReturnType<typeof bypassOf>,
  peerSeen: boolean,
): string {
  const spoiled =
    defect === 'udpcsum-not-updated'
      ? 'its outer UDP checksum was not updated for the new port'
      : 'its absent outer UDP checksum (0) was turned into a wrong one';
  const whom = peerSeen ? 'so the peer dropped it' : 'so the peer must drop it';
  const start =
    `${withoutRuleSummary(exchange, first, device) ?? ownSummary(exchange, all, first, device, rules)} ` +
    `but ${spoiled}, ${whom}.`;
  if (bypass) return `${start} ${bypass.short}`;
  if (exchange.outcome !== 'failed') return start;
  if (needsNoMark(rules?.path ?? null, all))
    return `${start} No retransmission escaped: every outer packet is masqueraded, whatever its port and entry.`;
  const later = all.filter((c) => c.n > first.n && c.wire);
  const intact = later.filter((c) => !c.badChecksum);
  if (intact.length > 0)
    return `${start} ${namesOf(exchange, intact)} left with a right checksum: what became of ${intact.length === 1 ? 'it' : 'them'} has another cause.`;
  if (later.length === 0) return start;
  if (!later.every(({ translation }) => translation?.how === 'own-entry'))
    return `${start} No retransmission escaped: each had an outer tuple that is translated.`;
  return `${start} No retransmission escaped: each met the same conntrack entry, which every ${nounOf(exchange)} kept alive${exchange.kind === 'dns-lookup' && first.entry?.mark ? ', and one that came after the entry’s time would be new, marked, and spoiled again' : ''}.`;
}

/** The summary's start where a rule masqueraded the packet, up to what the SNAT changed. */
function ownSummary(
  exchange: Case,
  all: Crossing[],
  first: Crossing,
  device: string,
  rules: KnownPath | null,
): string {
  const node = first.sent!.world.netnsName(first.sent!.netns);
  const twice = isSnat(first.entry?.ct ?? null)
    ? `On ${node} the ${nounOf(exchange)} was masqueraded twice: once itself, and once more as the ${device} packet that carries it`
    : `On ${node} not the ${nounOf(exchange)} was masqueraded but the ${device} packet that carries it`;
  const why = needsNoMark(rules?.path ?? null, all)
    ? 'by a rule that asks for no mark'
    : 'because the mark survives encapsulation';
  return `${twice}, ${why}. The ${isSnat(first.entry?.ct ?? null) ? 'second ' : ''}SNAT changed the outer source port from ${first.expectedPort} to ${first.wirePort},`;
}

const hashOf = (c: Crossing): number | undefined => (c.entry ?? c.sent)?.hash;
