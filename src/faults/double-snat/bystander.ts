import { formatEndpoint } from '../../event/headers.js';
import type { Case, Entry } from '../../explain/diagnose.js';
import type { Claim } from '../../explain/finding.js';
import { nounOf, nameOf } from '../../explain/reading/attempts.js';
import { shortDuration } from '../../explain/wording.js';
import type { Crossing } from './crossing.js';
import type { Translation } from './translation.js';

type Strangers = Extract<Translation, { how: 'shared-entry' | 'port-taken' }>;

/** Was the packet translated for what another flow's second SNAT left in the table? */
export function isBystander(c: Crossing): boolean {
  return strangersOf(c) !== null;
}

function strangersOf({ translation }: Crossing): Strangers | null {
  return translation?.how === 'shared-entry' || translation?.how === 'port-taken'
    ? translation
    : null;
}

/** How it came to be translated. */
export function bystanderClaim(exchange: Case, c: Crossing): Claim {
  const { how, other } = strangersOf(c)!;
  const name = nameOf(exchange, c.n);
  const changes = `its source port goes from ${c.expectedPort} to ${c.wirePort}`;
  const evidence = [
    ...(other ? [...other.translated, ...other.inserted] : []),
    ...[c.nat, c.sent].flatMap((o) => (o ? [o.evidence] : [])),
  ];
  if (how === 'shared-entry')
    return {
      claim: 'entry-of-another',
      text: other
        ? `The hash of ${name} gives it outer port ${c.expectedPort}, as another packet’s did that was masqueraded ${ageOf(other, c)} before (${hopText(other)}). That one’s conntrack entry is there still, and translates whatever has its tuple, marked or not: ${changes}.`
        : `The outer tuple of ${name} has a conntrack entry already, made before the first packet of it that was recorded. It bears a SNAT, and translates whatever has its tuple, marked or not: ${changes}.`,
      evidence,
    };
  const taken = `answers to both would be alike, so NAT, which no rule asked to, gives it a free one (null binding): ${changes}.`;
  return {
    claim: 'outer-port-taken',
    text: other
      ? `The hash of ${name} gives it outer port ${c.expectedPort}, which the second SNAT gave another flow’s packets ${ageOf(other, c)} before (${hopText(other)}): ${taken}`
      : `No rule that was read masquerades the outer packet of ${name}. Its port ${c.expectedPort} must be one that a second SNAT gave another flow’s packets: ${taken}`,
    evidence,
  };
}

/** The summary's start, up to what the SNAT changed; null: a rule masqueraded the packet. */
export function bystanderSummary(exchange: Case, c: Crossing, device: string): string | null {
  const strangers = strangersOf(c);
  if (!strangers || !c.sent) return null;
  const node = c.sent.world.netnsName(c.sent.netns);
  const packet = `the ${device} packet that carries the ${nounOf(exchange)}`;
  const changed = `changed its source port from ${c.expectedPort} to ${c.wirePort},`;
  if (strangers.how === 'port-taken')
    return `On ${node} no rule masquerades ${packet}, but its source port ${c.expectedPort} was taken: a second SNAT had given it to another flow’s. NAT ${changed}`;
  return strangers.other
    ? `On ${node} ${packet} has the outer tuple of another flow’s, which a second SNAT had masqueraded: that one’s conntrack entry ${changed}`
    : `On ${node} ${packet} met a conntrack entry with a second SNAT, made before what was recorded: it ${changed}`;
}

/** Why it is not proved who brought it about; empty where it is, or where no stranger did. */
export function bystanderDoubt(exchange: Case, c: Crossing): string[] {
  const strangers = strangersOf(c);
  return strangers?.other === null
    ? [
        strangers.how === 'shared-entry'
          ? `the conntrack entry that translated ${nameOf(exchange, c.n)} was not seen being made: it may be of an earlier packet of the same flow, or of another’s`
          : `the flow that has outer port ${c.expectedPort} was not seen`,
      ]
    : [];
}

const ageOf = (other: Entry, c: Crossing): string =>
  shortDuration(((c.entry ?? c.sent!).time - other.firstSeen) / 1e6);

/** `from 10.0.0.1:34590 to port 47764` */
function hopText({ original, reply }: Entry): string {
  return `from ${formatEndpoint(original.source)} to port ${reply.destination.port}`;
}
