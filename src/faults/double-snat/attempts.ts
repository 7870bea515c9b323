import type { Case } from '../../explain/diagnose.js';
import type { FindingAttempt } from '../../explain/finding.js';
import { whatOf } from '../../explain/reading/attempts.js';
import type { Conntrack } from '../../explain/exchanges/observation.js';
import { toMicroseconds } from '../../explain/wording.js';
import { identity, type Crossing } from './crossing.js';

/** What became of each attempt, for the finding. */
export const attemptsOf = (exchange: Case, all: readonly Crossing[]): FindingAttempt[] =>
  all.map((c) => attempt(exchange, c, all));

/** Its address, and the source port before and after translation: another one may have the address at once. */
const idOf = ({ address, original, reply }: Conntrack): string =>
  `${address}-${original.source.port}-${reply.destination.port}`;

function attempt(exchange: Case, c: Crossing, all: readonly Crossing[]): FindingAttempt {
  const own = c.outerCt
    ? all.find((other) => other.outerCt && identity(other.outerCt) === identity(c.outerCt!))!
    : null;
  const shared = own?.translation?.how === 'shared-entry' ? own.translation.other : null;
  const since = shared?.firstSeen ?? (own?.newEntry ? (own.nat ?? own.sent)!.time : null);
  return {
    n: c.n,
    what: whatOf(exchange, c.n),
    atMs: toMicroseconds((c.startedAt - exchange.startedAt) / 1e6),
    mark: c.entry?.mark ?? c.sent?.mark ?? null,
    hash: (c.entry ?? c.sent)?.hash ?? null,
    outerPort: c.wire ? { expected: c.expectedPort, wire: c.wirePort } : null,
    outerConntrack: c.outerCt && {
      id: idOf(c.outerCt),
      state: c.newEntry ? 'new' : 'existing',
      snat: c.snat,
      ageMs: since === null ? null : toMicroseconds(((c.sent ?? c.nat)!.time - since) / 1e6),
    },
    checksum: c.checksum,
    fate: c.fate,
    dropReason: c.drop ? exchange.reasonName(c.drop) : null,
    dropLocation: c.drop ? c.drop.world.symbol(c.drop.location) : null,
  };
}
