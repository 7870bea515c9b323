import { formatEndpoint } from '../../event/headers.js';
import type { Case, Entry } from '../../explain/diagnose.js';
import type { Claim } from '../../explain/finding.js';
import { nameOf, nounOf } from '../../explain/reading/attempts.js';
import { shortDuration } from '../../explain/wording.js';
import type { Crossing } from './crossing.js';
import { pathsOf } from './rules.js';
import { isSeenMade, type Translation } from './translation.js';

type WithoutRule = Extract<Translation, { how: 'shared-entry' | 'port-taken' | 'unknown' }>;

/**
 * Was the packet translated, and no rule is known to have asked for it? Mostly for what the second SNAT
 * of another flow left in the table.
 */
export function isWithoutRule(c: Crossing): boolean {
  return withoutRule(c) !== null;
}

function withoutRule({ translation }: Crossing): WithoutRule | null {
  return translation && translation.how !== 'rule' && translation.how !== 'own-entry'
    ? translation
    : null;
}

/** How it came to be translated. */
export function withoutRuleClaim(exchange: Case, c: Crossing): Claim {
  const translation = withoutRule(c)!;
  const other = translation.how === 'unknown' ? null : translation.other;
  return {
    claim: CLAIMS[translation.how],
    text: `${reason(exchange, c, translation)}: its source port goes from ${c.expectedPort} to ${c.wirePort}.`,
    evidence: [
      ...(other ? [...other.translated, ...other.inserted] : []),
      ...[c.nat, c.sent].flatMap((o) => (o ? [o.evidence] : [])),
    ],
  };
}

const CLAIMS = {
  'shared-entry': 'entry-of-another',
  'port-taken': 'outer-port-taken',
  unknown: 'outer-packet-translated',
} as const;

function reason(exchange: Case, c: Crossing, translation: WithoutRule): string {
  const name = nameOf(exchange, c.n);
  const gives = `The hash of ${name} gives it outer port ${c.expectedPort}`;
  const alike = 'answers to both would be alike, so NAT gives it a free one';
  switch (translation.how) {
    case 'shared-entry': {
      const { other } = translation;
      const translates = 'translates whatever has its tuple, marked or not';
      if (!other)
        return `The outer tuple of ${name} has a conntrack entry already, which was not seen being made. It bears a SNAT, and ${translates}`;
      return isSeenMade(other)
        ? `${gives}, as an earlier packet’s did that was translated ${ageOf(other, c)} before (${hopText(other)}). That one’s conntrack entry is there still, and ${translates}`
        : `${gives}. That tuple has had a conntrack entry with a SNAT for ${ageOf(other, c)} at least (${hopText(other)}), and it ${translates}`;
    }
    case 'port-taken':
      return translation.other
        ? `${gives}, which was given to another flow’s packets (${hopText(translation.other)}, seen ${ageOf(translation.other, c)} before): ${alike}`
        : `${gives}, and no rule that was found changes that. So another flow’s packets must have been given that port: ${alike}`;
    case 'unknown':
      return `The outer packet of ${name} is translated, though no rule is known that asks for it. A rule may, or a conntrack entry of an earlier packet with its tuple, or another flow has its port`;
  }
}

/** The summary's start, up to what the SNAT changed; null: a rule masqueraded the packet. */
export function withoutRuleSummary(exchange: Case, c: Crossing, device: string): string | null {
  const translation = withoutRule(c);
  if (!translation || !c.sent) return null;
  const node = c.sent.world.netnsName(c.sent.netns);
  const packet = `the ${device} packet that carries the ${nounOf(exchange)}`;
  const changed = `changed its source port from ${c.expectedPort} to ${c.wirePort},`;
  switch (translation.how) {
    case 'shared-entry':
      return translation.other && isSeenMade(translation.other)
        ? `On ${node} ${packet} has the outer tuple of an earlier one, which was translated: that one’s conntrack entry ${changed}`
        : `On ${node} ${packet} met a conntrack entry with a SNAT that was there before: it ${changed}`;
    case 'port-taken':
      return `On ${node} ${packet} could not keep its source port, which ${translation.other ? 'had been given' : 'must have been given'} to another flow’s packets: NAT ${changed}`;
    case 'unknown':
      return `On ${node} ${packet} was source-NATed, and nothing that was recorded says why: NAT ${changed}`;
  }
}

/**
 * Why it is not proved what brought the translation about; empty where it is.
 * @param spared see pathsOf
 */
export function translationDoubts(exchange: Case, c: Crossing, spared: boolean): string[] {
  const { translation } = c;
  const name = nameOf(exchange, c.n);
  const paths = c.entry && pathsOf(c.entry, c.startedAt, spared);
  const unread = paths?.complete
    ? []
    : [
        `${paths ? 'not all ways through the rules of the node are known' : 'the rules of the node were not recorded'}: that ${translation?.how === 'rule' ? 'one' : 'none'} of them masquerades the outer packet without asking for a mark is inferred`,
      ];
  switch (translation?.how) {
    case 'shared-entry':
      return translation.other && isSeenMade(translation.other)
        ? []
        : [
            `the conntrack entry that translated ${name} was not seen being made: it may be of an earlier packet of the same flow, or of another’s`,
          ];
    case 'port-taken':
      return [
        ...(translation.other
          ? unread
          : [`the flow that has outer port ${c.expectedPort} was not seen`]),
        ...(c.nat ? [] : [`that the conntrack entry was made for ${name} was not seen`]),
      ];
    case 'unknown':
      return [`what translated the outer packet of ${name} was not seen`];
    case 'rule':
      return c.entry?.mark === 0 && !paths?.list.some(({ mark }) => mark === 0) ? unread : [];
    default:
      return [];
  }
}

const ageOf = (other: Entry, c: Crossing): string =>
  shortDuration(((c.entry ?? c.sent!).time - other.firstSeen) / 1e6);

/** `from 10.0.0.1:34590 to port 47764` */
function hopText({ original, reply }: Entry): string {
  return `from ${formatEndpoint(original.source)} to port ${reply.destination.port}`;
}
