import type { RuleCondition, SourceNatRule } from '../event/fact.js';
import { IPPROTO_TCP, IPPROTO_UDP } from '../event/headers.js';
import type { Confidence } from '../explain/finding.js';
import { count } from '../explain/wording.js';
import type { Place } from './fault.js';

/**
 * The rules that translate sources of TCP or UDP flows in a namespace, each once.
 * @returns the reason where two flows of different clients cannot be translated to one tuple, or null
 *   where the rules could not be read
 */
export function sourceNatRules(
  { rules, settings }: Place,
  protocol: 'tcp' | 'udp' | 'any',
): SourceNatRule[] | string | null {
  const translating = rules?.translating;
  if (!translating) return null;
  const found = new Map(
    translating
      .filter(({ when }) => when.every((condition) => lets(condition, protocol)))
      .map((rule) => [`${rule.backend} ${rule.family} ${rule.table} ${rule.text}`, rule]),
  );
  if (found.size === 0)
    return rules.unread.length > 0 ? null : 'no rule translates the sources of such flows here';
  if (settings['net.ipv4.ip_forward'] === '0' && settings['net.ipv6.conf.all.forwarding'] !== '1')
    return 'nothing is forwarded here: sockets of one host have ports of their own';
  return [...found.values()];
}

const NUMBERS = { tcp: [IPPROTO_TCP], udp: [IPPROTO_UDP], any: [IPPROTO_TCP, IPPROTO_UDP] };

/** May a flow of the protocol meet the condition, as far as protocols go? */
function lets(condition: RuleCondition, protocol: keyof typeof NUMBERS): boolean {
  if (condition.match !== 'protocol') return true;
  const within = (number: number): boolean =>
    condition.values.some(
      ([low, high]) => BigInt(number) >= BigInt(low) && BigInt(number) <= BigInt(high),
    );
  return NUMBERS[protocol].some((number) => within(number) !== condition.negated);
}

/** `proved` where every condition of the rule could be read. */
export const sureOf = ({ when, skippable }: SourceNatRule): Confidence =>
  skippable || when.some(({ match }) => match === 'unknown') ? 'possible' : 'proved';

/** More rules than this are not quoted. */
const QUOTED = 3;

/** What rules that choose no ports at random leave to chance; some of them are quoted. */
export function keepingTexts(rules: readonly SourceNatRule[]): string[] {
  const quoted = rules.slice(0, QUOTED).map(({ text }) => `\`${text}\``);
  const more = rules.length > QUOTED ? ` and ${count(rules.length - QUOTED, 'more rule')}` : '';
  return [
    `${quoted.join(', ')}${more} ${rules.length > 1 ? 'leave' : 'leaves'} a flow its own source port while no entry in the table has it (no --random-fully): of two clients with one port, one destination and one moment, one loses its packet.`,
  ];
}

/** The surest of them. */
export const surestOf = (rules: readonly SourceNatRule[]): Confidence =>
  rules.some((rule) => sureOf(rule) === 'proved') ? 'proved' : 'possible';

/** What conntrack has counted of it, if anything; a sentence. */
export function insertFailures({ counters }: Place): string[] {
  const dropped = counters['conntrack.drop'] ?? 0;
  return dropped === 0
    ? []
    : [
        `conntrack has dropped ${dropped} packets here since the namespace came to be (drop): its table was full, or an entry could not be inserted.`,
      ];
}
