import type { Case } from '../../explain/diagnose.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import type { Claim } from '../../explain/finding.js';
import { nameOf, nounOf } from '../../explain/reading/attempts.js';
import { evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import { duration } from '../../explain/wording.js';
import type { Crossing } from './crossing.js';

// include/net/tcp_states.h
const TCP_ESTABLISHED = 1;
const TCP_SYN_SENT = 2;

/** `connect to 10.96.0.10:80 took 1.01 s: 1 SYN spoiled by a second SNAT` */
export function titleOf(exchange: Case, all: readonly Crossing[], target: string | null): string {
  const lost = all.filter((c) => c.badChecksum && c.fate !== 'delivered').length;
  const syns =
    lost === 1
      ? `1 ${nounOf(exchange)}`
      : `${lost} ${exchange.kind === 'dns-lookup' ? 'queries' : 'SYNs'}`;
  const pending = exchange.outcome === 'pending' ? ' so far' : '';
  return `${outcomeText(exchange, target)}: ${syns} spoiled by a second SNAT${pending}`;
}

/** The claim that an attempt got through; none when none did. */
export function deliveredClaim(exchange: Case, all: readonly Crossing[]): Claim[] {
  const delivered = all.find((c) => c.fate === 'delivered');
  const established = exchange.observations.find(
    (o) =>
      o.point === 'socket.state' && o.oldState === TCP_SYN_SENT && o.newState === TCP_ESTABLISHED,
  );
  if (!delivered) return [];
  return [
    {
      claim: 'delivered',
      text:
        `${nameOf(exchange, delivered.n)} is delivered after ${duration((delivered.startedAt - exchange.startedAt) / 1e6)}` +
        (exchange.outcome === 'recovered'
          ? `, and ${exchange.kind === 'dns-lookup' ? 'the answer is there' : 'the connection stands'} after ${duration((exchange.endedAt - exchange.startedAt) / 1e6)}.`
          : '.'),
      evidence: [
        ...evidenceOf(delivered.exit ?? delivered.wire ?? delivered.entry),
        ...evidenceOf(established),
      ],
    },
  ];
}

/** The family of tunnel packets. */
export function outerFamily({ headers }: Observation): 'ip' | 'ip6' {
  return headers.outer.version === 6 ? 'ip6' : 'ip';
}
