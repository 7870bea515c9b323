import type { DroppingRule, RuleCondition } from '../../event/fact.js';
import { count } from '../../explain/wording.js';
import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';

const VERDICT = 'policy-drop';
const DNS_PORT = 53n;
/** More rules than this are not quoted. */
const QUOTED = 3;

/**
 * Of rules that drop or reject, those that name port 53: name servers that cannot be reached hit
 * everything. Other rules do as they were told, and only packets tell whom they hit.
 */
export function exposure(place: Place): ExposureReport {
  const { rules } = place;
  const dropping = rules?.dropping;
  if (!dropping) return { exposures: [], unexposed: [] };
  const [first, ...more] = distinct(dropping.filter(({ when }) => when.some(namesDns)));
  if (!first)
    return rules.unread.length > 0
      ? { exposures: [], unexposed: [] }
      : notExposedTo(
          VERDICT,
          place,
          dropping.length === 0
            ? 'no rule drops or rejects packets here'
            : `of ${count(dropping.length, 'rule')} that drop or reject, none names port 53 (DNS); whom the others hit only packets tell`,
        );
  return onlyExposed(
    exposedTo(VERDICT, place, {
      confidence: 'possible',
      why: [
        ...[first, ...more].slice(0, QUOTED).map(quote),
        ...(more.length >= QUOTED
          ? [`${count(more.length + 1 - QUOTED, 'more rule')} like that.`]
          : []),
        'Whether queries of anybody here meet it depends on its other conditions and on the rules before it.',
      ],
      remedies: [
        {
          what: 'see whether it counts packets while a lookup fails',
          command: listing(first),
          source: 'iptables(8), nft(8)',
        },
      ],
    }),
  );
}

/** A rule to which several ways lead is one. */
function distinct(rules: readonly DroppingRule[]): DroppingRule[] {
  const seen = new Map(rules.map((rule) => [`${rule.table} ${rule.chain} ${rule.text}`, rule]));
  return [...seen.values()];
}

const namesDns = (condition: RuleCondition): boolean =>
  condition.match === 'dport' &&
  !condition.negated &&
  condition.values.some(([low, high]) => BigInt(low) <= DNS_PORT && DNS_PORT <= BigInt(high));

function quote({ action, hook, table, chain, text }: DroppingRule): string {
  const does = action === 'drop' ? 'drops' : 'rejects';
  return `A rule ${does} packets to port 53 in ${hook} (table ${table}, chain ${chain}): \`${text}\`.`;
}

function listing({ backend, family, table, chain }: DroppingRule): string {
  if (backend === 'nft') return `nft list chain ${family} ${table} ${chain}`;
  return `${family === 'ip6' ? 'ip6tables' : 'iptables'} -t ${table} -vnL ${chain}`;
}
