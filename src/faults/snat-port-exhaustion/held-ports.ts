import type { Collision } from '../../explain/reading/collision.js';
import type { Case, Entry } from '../../explain/diagnose.js';
import type { Evidence } from '../../explain/finding.js';
import { portsFor, type KnownRule } from '../../explain/reading/source-nat.js';
import { count } from '../../explain/wording.js';
import { formatEndpoint } from '../../event/headers.js';

/** Holders of ports that are named, and of whose entries evidence is given. */
const NAMED = 3;
const SHOWN = 8;

/**
 * How many ports NAT tries before it gives up, where there are more: 128 in a row, then 64, 32, 16 and
 * 8 from other places (nf_nat_l4proto_unique_tuple, net/netfilter/nf_nat_core.c, 5.0 to 6.18; read).
 */
const TRIES = 248;

/** Who has the ports that a flow may be translated to. */
export interface HeldPorts {
  /** a sentence or two: how many there are, how many were seen being taken, by whom */
  text: string;
  evidence: Evidence[];
}

/** What is known of the ports of the translated address towards the destination, when the packet died. */
export function heldPorts(exchange: Case, { drop }: Collision, known: KnownRule | null): HeldPorts {
  const { original, reply } = drop.ct!;
  const [low, high] = portsFor(known?.rule ?? null, original.source.port);
  const room = high - low + 1;
  const byPort = new Map<number, Entry>();
  for (const holder of exchange.portHolders(drop)) {
    const { port } = holder.reply.destination;
    if (holder.insertedAt < drop.time && port >= low && port <= high) byPort.set(port, holder);
  }
  const bySource = new Map<string, number>();
  for (const { original: other } of byPort.values())
    bySource.set(other.source.address, (bySource.get(other.source.address) ?? 0) + 1);
  const holders = [...bySource].sort(([, a], [, b]) => b - a);
  const who = holders
    .slice(0, NAMED)
    .map(([address, ports]) => `${ports} by ${address}`)
    .join(', ');
  const others = holders.length > NAMED ? `, others by ${holders.length - NAMED} more` : '';
  const way = `${reply.destination.address} to ${formatEndpoint(reply.source)}`;
  return {
    text:
      (known
        ? `The rule \`${known.rule.text}\`${known.sure ? '' : ' (as far as its conditions can be judged)'} leaves`
        : 'The rule is not known; without a range there are') +
      ` ${count(room, 'source port')} (${low}–${high}) of ${way}, ` +
      (byPort.size === 0
        ? 'none of which was seen being taken in this recording: who holds them is older, or not recorded.'
        : `${byPort.size === room ? 'and all of them' : `of which ${byPort.size}`} were seen being taken: ${who}${others}.`) +
      (room > TRIES && byPort.size < room
        ? ` NAT gives up after some ${TRIES} tries: a few may be free.`
        : ''),
    evidence: [
      ...(known?.evidence ?? []),
      ...[...byPort.values()].slice(0, SHOWN).flatMap(({ inserted }) => inserted),
    ],
  };
}
