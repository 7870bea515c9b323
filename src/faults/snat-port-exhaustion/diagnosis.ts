import { nameOf } from '../../explain/reading/attempts.js';
import {
  ageOf,
  collisionOf,
  commonOf,
  insertFailedClaim,
  nodeOf,
  raceClaims,
  raceText,
  repeatedClaim,
  ruledOutByCollision,
  translatedClaim,
  unknownWinnerText,
  verdictOf,
  type Collision,
} from '../../explain/reading/collision.js';
import type { Case, Diagnoser, Entry } from '../../explain/diagnose.js';
import { evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim, Prediction, RuledOut } from '../../explain/finding.js';
import { flowText } from '../../explain/reading/insertion.js';
import { repeatOf, repeatText } from '../../explain/reading/repeats.js';
import { synGaps } from '../../explain/reading/schedule.js';
import { sourceNatRuleOf } from '../../explain/reading/source-nat.js';
import { duration, toMicroseconds } from '../../explain/wording.js';
import { formatEndpoint } from '../../event/headers.js';
import { heldPorts, type HeldPorts } from './held-ports.js';
import { remedies } from './remedies.js';

const VERDICT = 'snat-port-exhaustion';

/**
 * `no-free-port`: source NAT finds no port to a destination that no other flow has. It settles for a
 * taken one then, without a word (nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c, returns
 * nothing), and the packet dies where its entry is to be inserted; conntrack counts that as
 * insert_failed and drop (measured on 6.18).
 * `port-race`: two connects that begin at the same moment are given the same port, since without
 * random-fully each keeps its own while no entry in the table has it; one dies in the same place.
 *
 * Lookups at a Service that race are `conntrack-reply-collision`: see verdictOf.
 */
export const portExhaustion: Diagnoser = {
  verdict: VERDICT,

  diagnose(exchange) {
    const collision = collisionOf(exchange);
    if (!collision || verdictOf(exchange, collision) !== VERDICT) return null;
    const { drop, drops, winner, how } = collision;
    const node = nodeOf(drop);
    const known = sourceNatRuleOf(drop);
    const taken = how === 'taken';
    const held = taken ? heldPorts(exchange, collision, known) : null;
    const defect = taken ? 'no-free-port' : how === 'race' ? 'port-race' : null;
    const common = commonOf(exchange, VERDICT, collision);
    const { source: from, destination: to } = ends(collision);
    return {
      ...common,
      ...(defect ? { defect } : {}),
      title:
        `${outcomeText(exchange, common.subject.service)}: ` +
        (taken
          ? `no free source port of ${from} to ${to} on ${node}`
          : winner
            ? `another client's at the same moment was translated to the same source port`
            : `its source port on ${node} was another's`),
      summary: `${held ? heldText(exchange, collision, held) : winner ? raceText(collision, winner) : unknownWinnerText(exchange, collision)} ${repeatText(exchange, drop.attempt, drop)}`,
      cause: `${VERDICT}/${defect ?? 'unknown'}/${node}${taken ? `/${to}` : ''}`,
      prediction: taken ? null : predict(exchange, drops.length),
      chain: [
        translatedClaim(exchange, collision),
        ...(held
          ? [...takenClaim(collision, winner), heldClaim(held, collision)]
          : winner
            ? raceClaims(exchange, collision, winner)
            : []),
        insertFailedClaim(exchange, drop),
        ...(drops.length > 1 ? [everyRepeatClaim(exchange, collision)] : []),
        ...repeatedClaim(exchange, drops.at(-1)!),
      ],
      ruledOut: ruledOut(exchange, collision),
      remedies: remedies(known?.rule ?? null, taken, drop),
    };
  },
};

/** Between whom a port is wanting: the address that NAT gave, and where the packet goes. */
function ends({ drop }: Pick<Collision, 'drop'>): { source: string; destination: string } {
  const { reply } = drop.ct!;
  return { source: reply.destination.address, destination: formatEndpoint(reply.source) };
}

function heldText(exchange: Case, collision: Collision, held: HeldPorts): string {
  const { drop, winner } = collision;
  const { source, destination } = ends(collision);
  return (
    `On ${nodeOf(drop)}, ${nameOf(exchange, drop.attempt)} (${flowText(drop.ct!)}) needs a source port of ${source} that no other flow to ${destination} has. ` +
    `${held.text} NAT found none that is free and settled for ${drop.ct!.reply.destination.port}` +
    (winner ? `, which ${flowText(winner)} has had for ${ageOf(winner, drop)}` : '') +
    ': the entry could not be inserted, and the packet was dropped.'
  );
}

function takenClaim({ drop }: Collision, winner: Entry | null): Claim[] {
  if (!winner) return [];
  return [
    {
      claim: 'port-taken',
      text: `That tuple is taken: ${flowText(winner)} is translated to the very same, and its entry has been in the table for ${ageOf(winner, drop)}. NAT chooses a taken port only when it found none that is free (nf_nat_l4proto_unique_tuple).`,
      evidence: [...winner.translated, ...winner.inserted],
    },
  ];
}

function heldClaim(held: HeldPorts, { drop }: Collision): Claim {
  const evidence = held.evidence.length > 0 ? held.evidence : evidenceOf(drop);
  return { claim: 'ports-held', text: held.text, evidence };
}

function everyRepeatClaim(exchange: Case, { drop, drops }: Collision): Claim {
  const ports = [...new Set(drops.map(({ ct }) => ct!.reply.destination.port))];
  return {
    claim: 'every-repeat-too',
    text: `${drops.length} packets of it died like that, the last after ${duration((drops.at(-1)!.time - exchange.startedAt) / 1e6)}: each was given a port that another flow has (${ports.join(', ')}).`,
    evidence: evidenceOf(...drops.filter((o) => o !== drop)),
  };
}

/** When a connect that lost its race gets through: at the first repeat that does not lose another. */
function predict(exchange: Case, lost: number): Prediction | null {
  if (exchange.kind === 'dns-lookup') return null;
  const { world, startedAt, observations } = exchange;
  const socket = observations.find(
    (o) => o.point === 'socket.state' || o.point === 'tcp.retransmit',
  );
  const setting = (name: string): number | null =>
    socket ? world.number(socket.netns, name, startedAt) : null;
  const retries = setting('net.ipv4.tcp_syn_retries');
  const linear = setting('net.ipv4.tcp_syn_linear_timeouts');
  const known = retries !== null;
  const gaps = synGaps(retries ?? 1, linear ?? 0).slice(0, 5);
  const through = exchange.outcome === 'recovered' ? exchange.attempts.at(-1) : null;
  return {
    // the first gap needs no settings
    recoverAtMs:
      known || lost === 1 ? gaps.slice(0, lost).reduce((sum, gap) => sum + gap, 0) : null,
    observedMs: through ? toMicroseconds((through.startedAt - startedAt) / 1e6) : null,
    text:
      (known
        ? `a SYN is sent again after gaps of ${gaps.map((gap) => gap / 1000).join(', ')} … s (tcp_syn_retries=${retries}, tcp_syn_linear_timeouts=${linear ?? 0})`
        : 'a SYN is sent again after 1 s') +
      '; by then the entry of the winner is in the table, and NAT chooses another port',
  };
}

function ruledOut(exchange: Case, collision: Collision): RuledOut[] {
  const { drop, winner, how } = collision;
  const { kind } = exchange;
  const again = repeatOf(exchange, drop.attempt);
  return [
    {
      verdict: 'conntrack-reply-collision',
      ...(how === 'taken'
        ? {
            text: winner
              ? `the other entry was not made at the same moment: it had been in the table for ${ageOf(winner, drop)}`
              : `not a race: ${again ? nameOf(exchange, again.n) : 'the repeat'} met with the same`,
            evidence: winner ? winner.inserted : evidenceOf(...collision.drops),
          }
        : {
            text:
              kind === 'tcp-connect'
                ? 'no lookup of a resolver, but a connect that was given the port of another one'
                : 'its destination was not translated: no lookup at a Service',
            evidence: evidenceOf(drop),
          }),
    },
    ...ruledOutByCollision(exchange, collision),
  ];
}
