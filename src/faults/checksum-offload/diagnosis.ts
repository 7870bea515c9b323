import {
  alteration,
  readingsOf,
  refusedAsInvalid,
  type Reading,
} from '../../explain/reading/checksums.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { isAnswer, isRequest, nameOf } from '../../explain/reading/attempts.js';
import { attemptsOf, dropText, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type {
  Claim,
  Confidence,
  Evidence,
  FindingAttempt,
  RuledOut,
} from '../../explain/finding.js';
import { IPS_DST_NAT, type Observation } from '../../explain/exchanges/observation.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { place } from '../../explain/unexplained.js';
import { duration, hex16 } from '../../explain/wording.js';
import { IPPROTO_TCP } from '../../event/headers.js';
import { sameChecksum } from '../../event/checksum.js';
import type { Defect } from './defect.js';
import { remedies } from './remedies.js';
import { counterRise, spoiledPackets, type Spoiled } from './spoiled.js';

/**
 * A packet arrives with a wrong transport checksum, and no NAT stands between the place where that
 * was right, or left to the device, and the place where it is wrong. That a packet leaves with an
 * unfinished checksum is no fault: the device is to finish it.
 */
export const checksumOffload: Diagnoser = {
  verdict: 'checksum-offload',

  diagnose(exchange) {
    const all = spoiledPackets(exchange);
    const first = all.find((s) => s.before !== null) ?? all[0];
    if (!first) return null;
    const alike = all.filter((s) => s.noun === first.noun && samePlace(s.after.at, first.after.at));
    const { before, after, noun } = first;
    const defect = defectOf(first);
    const subject = subjectOf(exchange);
    const from = before && deviceOf(before.at);
    const to = deviceOf(after.at);
    const where = before ? whereText(before.at, after.at) : `before ${deviceText(after.at)}`;
    const { confidence, loweredFor } = sureness(exchange, first, defect);
    const chain = [
      ...beforeClaims(first),
      {
        claim: 'wrong-on-arrival',
        text: afterText(first, defect),
        evidence: evidenceOf(after.at),
      },
      {
        claim: 'at-each-point',
        text: `The ${layerText(after)} checksum at each point: ${first.readings.map((r) => `${place(r.at)} ${readingText(r)}`).join('; ')}.`,
        evidence: evidenceOf(...first.readings.map((r) => r.at)),
      },
      fateClaim(exchange, first),
      ...repeatClaims(exchange, first, alike),
    ];
    return {
      verdict: 'checksum-offload',
      defect,
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: the ${noun}’s checksum ${TITLES[defect]} ${where}`,
      summary: summary(exchange, first, defect, where),
      cause: `checksum-offload/${defect}/${before ? `${before.at.world.netnsName(before.at.netns)}/${before.at.world.deviceName(before.at.netns, before.at.ifindex)}` : `${after.at.world.netnsName(after.at.netns)}/${after.at.world.deviceName(after.at.netns, after.at.ifindex)}`}`,
      confidence,
      loweredFor,
      subject,
      attempts: attempts(exchange, all),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: ruledOut(exchange, first),
      remedies: remedies(defect, from, to, subject.tunnel),
    };
  },
};

const TITLES: Record<Defect, string> = {
  'not-finished': 'was left to a device and not finished',
  miscalculated: 'was left to a device and finished wrongly',
  altered: 'does not fit any more: the packet was altered',
  rewritten: 'was spoiled',
  'wrong-on-arrival': 'was spoiled',
};

function defectOf({ before, after }: Spoiled): Defect {
  if (after.state === 'unfinished' && (!before || before.state === 'left')) return 'not-finished';
  if (!before) return 'wrong-on-arrival';
  if (before.state === 'left') {
    const finished = before.expected !== null && sameChecksum(before.expected, after.carried);
    return finished ? 'altered' : 'miscalculated';
  }
  return sameChecksum(before.carried, after.carried) ? 'altered' : 'rewritten';
}

function sureness(
  exchange: Case,
  spoiled: Spoiled,
  defect: Defect,
): { confidence: Confidence; loweredFor: string[] } {
  const { before, after, drop, refusedBy } = spoiled;
  if (!before)
    return {
      confidence: defect === 'not-finished' ? 'likely' : 'possible',
      loweredFor: [
        defect === 'not-finished'
          ? `nothing before ${deviceText(after.at)} was traced: that a device did not finish it shows from what it carries, which device it was does not`
          : `nothing before ${deviceText(after.at)} was traced: a device, a machine on the way, or a NAT out of sight may have spoiled it`,
      ],
    };
  const loweredFor: string[] = [];
  if (before.state === 'unknown')
    loweredFor.push(
      `not all that the checksum covers is recorded (payload never is): that it was right at ${place(before.at)} is not verified`,
    );
  if (
    before.state !== 'unknown' &&
    after.state === 'unknown' &&
    spoiled.readings.some(({ at }) => at.time > after.at.time && at.netns !== after.at.netns)
  )
    loweredFor.push(
      `not all that the checksum covers is recorded (payload never is): the packet may have been altered after ${place(after.at)} instead`,
    );
  if (refusedBy === 'protocol' && drop && after.state === 'unknown')
    loweredFor.push(...exchange.reasonDoubts(drop));
  if (refusedBy === 'counter' && after.state === 'unknown')
    loweredFor.push(
      'that it was found wrong is taken from a counter: the drop of a datagram that its process was about to take bears no namespace',
    );
  if (after.state === 'unfinished' && after.expected === null && refusedBy === null)
    loweredFor.push(
      'that the checksum is wrong follows from what it carries; nobody was seen to verify it',
    );
  if (drop && refusedBy === null && !translatorOf(exchange, spoiled))
    loweredFor.push(
      'it was dropped before anybody verified it: that it would have got further with a right checksum is not seen',
    );
  if (!exchange.attached('packet.drop')) loweredFor.push('packet.drop was not attached');
  return { confidence: loweredFor.length > 0 ? 'likely' : 'proved', loweredFor };
}

function beforeClaims({ before, noun }: Spoiled): Claim[] {
  if (!before) return [];
  const known = before.at.world.device(before.at.netns, before.at.ifindex, before.at.time);
  const features = Object.entries(known?.fact.offloads ?? {})
    .filter(([name, on]) => on && name.startsWith('tx-checksum'))
    .map(([name]) => name);
  const evidence: Evidence[] = [...evidenceOf(before.at), ...(known ? [known.evidence] : [])];
  const at = deviceText(before.at);
  if (before.state === 'left')
    return [
      {
        claim: 'left-to-the-device',
        text:
          `The ${noun} ${before.at.point === 'device.receive' ? 'comes in' : 'leaves'} by ${at} with its ${layerText(before)} checksum unfinished: ${hex16(before.carried)}, the sum of its pseudo header, with CHECKSUM_PARTIAL. ` +
          `That is no fault: ${before.at.point === 'device.receive' ? 'who carries it on' : 'the device'} ${features.length > 0 && before.at.point !== 'device.receive' ? `has promised to finish it (${features.join(', ')}: on)` : 'is to finish it'}.`,
        evidence,
      },
    ];
  return [
    {
      claim: before.state === 'right' ? 'right-before' : 'sent',
      text:
        before.state === 'right'
          ? `At ${at} the ${noun}’s ${layerText(before)} checksum is right: ${hex16(before.carried)}.`
          : `At ${at} the ${noun}’s ${layerText(before)} checksum is ${hex16(before.carried)}; not all that it covers is recorded.`,
      evidence,
    },
  ];
}

function afterText(spoiled: Spoiled, defect: Defect): string {
  const { before, after, noun } = spoiled;
  const wants = after.expected === null ? '' : `; ${hex16(after.expected)} would be right`;
  const at = `At ${deviceText(after.at)} the ${noun}`;
  switch (defect) {
    case 'not-finished':
      return `${at} arrives with ${before ? 'that same ' : ''}${hex16(after.carried)}, the sum of its pseudo header${wants}. It is ${summedName(after.at)} now: nothing says any more that the checksum is unfinished, so it is simply wrong.`;
    case 'miscalculated':
      return `${at} arrives with ${hex16(after.carried)}${wants}: ${after.expected === null ? 'the receiver’s kernel finds it wrong' : 'it was finished, and wrongly, or spoiled after that'}.`;
    case 'altered': {
      const change = before && alteration(before, after);
      const finished =
        before?.state === 'left'
          ? 'finished rightly for the packet that was sent'
          : 'the same as before';
      return `${at} arrives with ${hex16(after.carried)}, ${finished}, but it is another packet now: ${
        change
          ? `bytes ${change.at} and ${change.at + 1} from the transport header on are ${hex16(change.is)} instead of ${hex16(change.was)}`
          : 'what is not recorded of it (payload) must have changed'
      }${wants}.`;
    }
    case 'rewritten':
      return `${at} arrives with ${hex16(after.carried)} instead of ${hex16(before!.carried)}${wants}.`;
    case 'wrong-on-arrival':
      return `${at} arrives with ${hex16(after.carried)}${wants}${after.expected === null ? '; the receiver’s kernel finds it wrong' : ''}.`;
  }
}

function fateClaim(exchange: Case, spoiled: Spoiled): Claim {
  const { after, drop, refusedBy, noun } = spoiled;
  const last = spoiled.readings.at(-1)!.at;
  if (refusedBy === 'counter') {
    const rise = counterRise(last);
    return {
      claim: 'refused',
      text: `The kernel verifies it when the process takes it, and drops it: InCsumErrors of UDP in ${last.world.netnsName(last.netns)} rose by ${rise?.fact ?? 0} about then.`,
      evidence: [...evidenceOf(last), ...(rise ? [rise.evidence] : [])],
    };
  }
  if (!drop)
    return {
      claim: 'peer-drop-expected',
      text: `Who verifies it drops it. Expected, not seen: the ${noun} was last seen at ${place(last)}, and was not answered.`,
      evidence: evidenceOf(last),
    };
  const outer = drop.tunnel && !after.outer;
  const rule = refusedBy === 'conntrack' ? refusedAsInvalid(drop) : null;
  if (rule)
    return {
      claim: 'dropped-as-invalid',
      text: `conntrack of ${drop.world.netnsName(drop.netns)} takes a packet with a wrong checksum for INVALID (nf_conntrack_checksum), and what is INVALID is dropped there: ${dropText(exchange, drop)}, \`${rule.text}\`.`,
      evidence: evidenceOf(drop),
    };
  if (refusedBy === 'protocol')
    return {
      claim: 'refused',
      text:
        `The kernel verifies it and drops it: ${dropText(exchange, drop)}.` +
        (outer
          ? ' The outer UDP checksum counts on a right one inside (local checksum offload), so it is wrong too.'
          : ''),
      evidence: evidenceOf(drop),
    };
  const untranslated = translatorOf(exchange, spoiled);
  return {
    claim: 'not-translated',
    text: untranslated
      ? `conntrack of ${after.at.world.netnsName(untranslated.netns)} takes a packet with a wrong checksum for INVALID (nf_conntrack_checksum): it has no entry there and is not translated, as ${nameOf(exchange, untranslated.attempt)} is, which is whole. So it goes astray: ${dropText(exchange, drop)}.`
      : `It is dropped before anybody verifies it: ${dropText(exchange, drop)}. Where conntrack verifies checksums (nf_conntrack_checksum) such a packet is INVALID: it gets no entry and is not translated.`,
    evidence: evidenceOf(drop, untranslated),
  };
}

/** The same namespace translating another request of the exchange. */
function translatorOf(exchange: Case, { after }: Spoiled): Observation | null {
  return (
    exchange.observations.find(
      (o) =>
        isRequest(o) &&
        o.netns === after.at.netns &&
        o.attempt !== after.at.attempt &&
        ((o.ct?.status ?? 0) & IPS_DST_NAT) !== 0,
    ) ?? null
  );
}

function repeatClaims(exchange: Case, first: Spoiled, alike: readonly Spoiled[]): Claim[] {
  const claims: Claim[] = [];
  const last = alike.at(-1)!;
  if (alike.length > 1)
    claims.push({
      claim: 'every-repeat-too',
      text: `${alike.length} ${plural(first.noun)} of it arrived like that, the last after ${duration((last.after.at.time - exchange.startedAt) / 1e6)}.`,
      evidence: evidenceOf(...alike.filter((s) => s !== first).map((s) => s.after.at)),
    });
  const through = exchange.observations.find(
    (o) =>
      o.time > last.after.at.time &&
      samePlace(o, first.after.at) &&
      isRequest(o) === isRequest(first.after.at) &&
      (isRequest(o) || isAnswer(o)) &&
      readingsOf(o).every(({ state }) => /^(right|left|absent)$/.test(state)),
  );
  if (through && exchange.outcome === 'recovered')
    claims.push({
      claim: 'a-later-one-is-right',
      text: `${isRequest(through) ? nameOf(exchange, through.attempt) : `A later ${first.noun}`} arrives there after ${duration((through.time - exchange.startedAt) / 1e6)} with a checksum that passes: not every packet is spoiled.`,
      evidence: evidenceOf(through),
    });
  return claims;
}

const plural = (noun: string): string => (noun === 'query' ? 'queries' : `${noun}s`);

function summary(exchange: Case, spoiled: Spoiled, defect: Defect, where: string): string {
  const { before, after, drop, refusedBy } = spoiled;
  const what = `the ${spoiled.noun}’s ${layerText(after)} checksum`;
  const made = {
    'not-finished': before
      ? `The kernel left ${what} to ${deviceText(before.at)} to finish, as it does with devices that offer it; it came to ${deviceText(after.at)} unfinished. What promised to finish it did not: the device, its driver, or the hypervisor behind it.`
      : `The ${spoiled.noun} came to ${deviceText(after.at)} with a checksum that nobody had finished: a device, its driver, or a hypervisor on the sending side promised to and did not.`,
    miscalculated: `The kernel left ${what} to ${before ? deviceText(before.at) : 'a device'} to finish; it came to ${deviceText(after.at)} wrong. The device, its driver, or the hypervisor behind it computes it wrongly.`,
    altered: `Something ${where} changed the ${spoiled.noun} and not its checksum.`,
    rewritten: `${capital(what)} was finished when it left, and another one arrived: something ${where} spoiled it.`,
    'wrong-on-arrival': `The ${spoiled.noun} came to ${deviceText(after.at)} with a wrong ${layerText(after)} checksum: something before spoiled it.`,
  }[defect];
  const nat = before ? ' No NAT stands between: addresses and ports are the same.' : '';
  const then =
    refusedBy === 'conntrack'
      ? `conntrack takes such a packet for INVALID, and a rule drops what is INVALID`
      : refusedBy !== null
        ? `The receiver verifies checksums and drops such a packet without a word`
        : drop
          ? `It was lost`
          : `Who verifies it drops it`;
  const end =
    exchange.outcome === 'failed'
      ? '; none got through.'
      : exchange.outcome === 'recovered'
        ? '; a repeat got through.'
        : '.';
  return `${made}${nat} ${then}${end}`;
}

function ruledOut(exchange: Case, { before, after, drop, refusedBy }: Spoiled): RuledOut[] {
  const out: RuledOut[] = [];
  if (before)
    out.push({
      verdict: 'double-snat',
      text: 'addresses and ports are the same before and after: no NAT touched it between the two places',
      evidence: evidenceOf(before.at, after.at),
    });
  out.push({
    verdict: 'lost-on-the-wire',
    text: 'it arrived, and is wrong on arrival',
    evidence: evidenceOf(after.at),
  });
  if (refusedBy === 'conntrack')
    out.push({
      verdict: 'policy-drop',
      text: 'the rule that dropped it drops what conntrack takes for INVALID, which it is for its checksum alone',
      evidence: evidenceOf(drop),
    });
  if (refusedBy === 'protocol')
    out.push({
      verdict: 'policy-drop',
      text: `no rule dropped it: ${exchange.reasonName(drop!)} is the reason of who verifies checksums`,
      evidence: evidenceOf(drop),
    });
  return out;
}

function attempts(exchange: Case, all: readonly Spoiled[]): FindingAttempt[] {
  const drops = all.flatMap(({ drop }) => (drop ? [drop] : []));
  return attemptsOf(exchange, drops).map((attempt) => {
    const spoiled = all.find((s) => s.n === attempt.n);
    if (!spoiled) return attempt;
    const { before, after, drop } = spoiled;
    return {
      ...attempt,
      checksum:
        after.expected === null
          ? null
          : { before: before?.carried ?? null, after: after.carried, expected: after.expected },
      fate: drop ? attempt.fate : 'drop-expected',
    };
  });
}

function readingText({ at, carried, expected, state }: Reading): string {
  const summed = summedName(at);
  switch (state) {
    case 'left':
      return `${hex16(carried)} left to the device (${summed})`;
    case 'right':
      return `${hex16(carried)} right (${summed})`;
    case 'absent':
      return 'none';
    case 'unknown':
      return `${hex16(carried)} (${summed})`;
    case 'unfinished':
      return `${hex16(carried)} unfinished${expected === null ? '' : `, not ${hex16(expected)}`} (${summed})`;
    case 'wrong':
      return `${hex16(carried)} wrong, not ${hex16(expected!)} (${summed})`;
  }
}

/** include/linux/skbuff.h */
function summedName({ ipSummed }: Observation): string {
  return `CHECKSUM_${['NONE', 'UNNECESSARY', 'COMPLETE', 'PARTIAL'][ipSummed]}`;
}

function layerText({ layer, outer, at }: Reading): string {
  const name = layer.protocol === IPPROTO_TCP ? 'TCP' : 'UDP';
  return outer ? `outer ${name}` : at.tunnel ? `inner ${name}` : name;
}

function deviceOf({ world, netns, ifindex, time }: Observation) {
  return world.device(netns, ifindex, time)?.fact ?? null;
}

/** `eth0 (virtio_net) of node` */
function deviceText(o: Observation): string {
  const fact = deviceOf(o);
  const driver = fact?.driver ?? fact?.kind;
  return `${o.world.deviceName(o.netns, o.ifindex)}${driver ? ` (${driver})` : ''} of ${o.world.netnsName(o.netns)}`;
}

function whereText(before: Observation, after: Observation): string {
  return before.netns === after.netns && before.ifindex === after.ifindex
    ? `at ${deviceText(after)}`
    : `between ${deviceText(before)} and ${deviceText(after)}`;
}

function samePlace(a: Observation, b: Observation): boolean {
  return a.netns === b.netns && a.ifindex === b.ifindex && a.point === b.point;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
