import { isRequest, nameOf } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { dropText, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Diagnosis, Evidence, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { attemptsUpToAnswer, repeatOf, repeatText } from '../../explain/reading/repeats.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { count, duration } from '../../explain/wording.js';
import type { Known } from '../../explain/world.js';
import { remedies } from './remedies.js';

/** A table this full when it was sampled may have been full a moment before or after. */
const NEARLY_FULL = 0.95;
/** Entries seen being made for one source that make it worth naming. */
const MANY = 20;

/**
 * conntrack has no room for a new entry, finds none that it may drop early, and drops the packet
 * before it has one (nf_conntrack_in and __nf_conntrack_alloc, net/netfilter/nf_conntrack_core.c).
 */
export const tableFull: Diagnoser = {
  verdict: 'conntrack-table-full',

  diagnose(exchange) {
    const drops = exchange.observations.filter(
      (o) =>
        o.point === 'packet.drop' &&
        isRequest(o) &&
        o.ct === null &&
        exchange.reasonName(o) === 'NETFILTER_DROP' &&
        o.world.symbol(o.location).startsWith('nf_hook_slow'),
    );
    for (const drop of drops) {
      const { world, netns, time } = drop;
      // a rule of table raw leaves the same drop; conntrack counts its own
      const rise = world.rise(netns, 'conntrack.drop', time, time);
      if (rise && rise.fact > 0) return diagnosis(exchange, drops, drop, rise);
    }
    return null;
  },
};

function diagnosis(
  exchange: Case,
  drops: readonly Observation[],
  drop: Observation,
  rise: Known<number>,
): Diagnosis {
  const { world, netns, time } = drop;
  const node = world.netnsName(netns);
  const noun = nameOf(exchange, drop.attempt);
  const entries = world.sample(netns, 'conntrack.entries', time);
  const limit = world.setting(netns, 'net.netfilter.nf_conntrack_max', time);
  const room = limit ? Number(limit.fact) : null;
  const full = entries !== null && room !== null && entries.fact >= room * NEARLY_FULL;
  const early = world.rise(netns, 'conntrack.early_drop', exchange.startedAt, time);
  const [first, ...others] = exchange
    .entryMakers(netns)
    .filter((maker) => maker.entries >= MANY)
    .slice(0, 3);
  const fill =
    entries && room !== null
      ? `${entries.fact} entries where ${room} fit`
      : 'how full it was is not known';
  const chain: Claim[] = [
    {
      claim: 'dropped-without-entry',
      text: `${noun} reaches ${node}, gets no conntrack entry, and is dropped: ${dropText(exchange, drop)}.`,
      evidence: evidenceOf(drop),
    },
    {
      claim: 'counted-by-conntrack',
      text: `conntrack's own counter of drops rose by ${rise.fact} meanwhile: a rule's drop is not counted there.`,
      evidence: [rise.evidence],
    },
    {
      claim: full ? 'table-full' : 'table-fill',
      text:
        `Its table was sampled with ${fill}${entries ? ` (${when(entries.time - time)})` : ''}.` +
        (early && early.fact > 0
          ? ` ${count(early.fact, 'entry')} of others had been dropped early to make room.`
          : ' No entry of others could be dropped early: those that were seen in both directions are kept.'),
      evidence: [entries, limit].flatMap((known): Evidence[] => (known ? [known.evidence] : [])),
    },
  ];
  if (first)
    chain.push({
      claim: 'filled-by',
      text: `Of the entries seen being made in this recording, ${first.entries} are for ${first.source}${others.map(({ source, entries: n }) => `, ${n} for ${source}`).join('')}.`,
      evidence: evidenceOf(drop),
    });
  const again = repeatOf(exchange, drop.attempt);
  if (again)
    chain.push({
      claim: 'repeated',
      text: `${nameOf(exchange, again.n)} is the same again after ${duration(again.afterMs)}${drops.some((o) => o.attempt === again.n) ? ', and is dropped too' : ''}.`,
      evidence: evidenceOf(exchange.observations.find((o) => o.attempt === again.n)),
    });
  const subject = subjectOf(exchange);
  return {
    verdict: 'conntrack-table-full',
    title: `${outcomeText(exchange, subject.service)}: conntrack on ${node} had no room for a new entry`,
    summary:
      `On ${node} conntrack's table was full (${fill}), and ${noun} was dropped before it had an entry. ` +
      (first
        ? `Most of the entries seen being made are for ${first.source} (${first.entries}). `
        : 'Who fills it was not recorded. ') +
      repeatText(exchange, drop.attempt, drop),
    cause: `conntrack-table-full/${node}`,
    confidence: full ? 'proved' : 'likely',
    loweredFor: full
      ? []
      : [
          `the table was not seen full when it was sampled (${fill}); conntrack drops like that for want of memory, too`,
        ],
    subject,
    attempts: attemptsUpToAnswer(exchange, drops),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: ruledOut(drop, rise),
    remedies: remedies(room),
  };
}

function ruledOut(drop: Observation, rise: Known<number>): RuledOut[] {
  return [
    {
      verdict: 'policy-drop',
      text: 'the packet had no conntrack entry, so at most a rule of table raw could have dropped it; conntrack counted the drop as its own',
      evidence: [...evidenceOf(drop), rise.evidence],
    },
    ...['conntrack-insert-race', 'conntrack-reply-collision', 'snat-port-exhaustion'].map(
      (verdict) => ({
        verdict,
        text: 'a packet whose entry cannot be inserted has that entry when it is dropped; this one had none',
        evidence: evidenceOf(drop),
      }),
    ),
    {
      verdict: 'lost-on-the-wire',
      text: 'the packet arrived, and was dropped after arrival',
      evidence: evidenceOf(drop),
    },
  ];
}

/** `0.2 s before the drop` */
function when(ns: number): string {
  return `${duration(Math.abs(ns) / 1e6)} ${ns < 0 ? 'before' : 'after'} the drop`;
}
