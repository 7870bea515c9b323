import { duration, hex, hex16, hex32 } from '../explain/wording.js';
import type { ConntrackRow, EventRow, TupleRow } from './event-row.js';
import type { Proof } from './survey.js';

/** What the comments of a frame say of its event, one aspect each. */
export function packetComments(row: EventRow, proofs: readonly Proof[]): string[] {
  return [
    whereAndWhat(row),
    changes(row),
    row.drop && `dropped: ${row.drop.reason} at ${row.drop.symbol}`,
    row.conntrack && conntrack(row.conntrack),
    checksum(row),
    row.flags.includes('UNREADABLE') ? 'the headers could not be read whole' : null,
    ...proofs.map(
      ({ finding, claim, text }) =>
        `proves ${finding.verdict} (${finding.confidence}), ${claim}: ${text} [${finding.id}]`,
    ),
  ].filter((comment) => comment !== null);
}

function whereAndWhat(row: EventRow): string {
  const place = [
    row.hook && `hook ${row.hook}`,
    row.device === null ? `in ${row.netns}` : `${row.device} in ${row.netns}`,
    `mark ${hex(row.mark)}`,
    `hash ${hex32(row.hash)}`,
    row.skb && `skb ${row.skb}`,
    row.sock && `socket ${row.sock}`,
    row.result,
  ].filter((word) => word !== null);
  return `#${row.seq} ${row.point}: ${place.join(', ')}`;
}

/** What the hook's chains did. */
function changes({ before, mark, outer }: EventRow): string | null {
  if (!before) return null;
  const change = (what: string, from: string, to: string): string[] =>
    from === to ? [] : [`${what} ${from} → ${to}`];
  const changed = [
    ...change('mark', hex(before.mark), hex(mark)),
    ...change('source port', String(before.sourcePort), String(outer?.sourcePort)),
    ...change('destination port', String(before.destinationPort), String(outer?.destinationPort)),
    ...change('checksum', hex16(before.checksum), hex16(outer?.checksum ?? 0)),
  ];
  return changed.length > 0 ? `changed at this hook: ${changed.join(', ')}` : null;
}

function conntrack(entry: ConntrackRow): string {
  return [
    `conntrack ${entry.id} ${entry.info}: ${entry.statusNames.join(' ') || 'no status'}`,
    `original ${tuple(entry.original)}`,
    `reply ${tuple(entry.reply)}`,
    ...(entry.timeoutMs === null ? [] : [`expires in ${duration(entry.timeoutMs)}`]),
    ...(entry.zone ? [`zone ${entry.zone}`] : []),
    ...(entry.mark ? [`connmark ${hex(entry.mark)}`] : []),
  ].join('; ');
}

function tuple({ protocol, source, sourcePort, destination, destinationPort }: TupleRow): string {
  const end = (address: string, port: number): string =>
    address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
  return `${protocol} ${end(source, sourcePort)} → ${end(destination, destinationPort)}`;
}

/** Which wrong checksums are harmless, and which are not. */
function checksum({ checksum: state, outer, inner }: EventRow): string | null {
  if (!state) return null;
  const parts: string[] = [];
  const expected = state.expectedOuter;
  if (state.unfinished) {
    const layer = state.unfinished === 'inner' ? inner : outer;
    const whose = inner ? `${state.unfinished} ` : '';
    parts.push(
      `${whose}${layer!.protocol.toUpperCase()} checksum not finished yet (CHECKSUM_PARTIAL): it is completed before ` +
        'the packet reaches a wire, so a wrong one here is harmless',
    );
  } else if (state.start !== null)
    parts.push(`CHECKSUM_PARTIAL from byte ${state.start} on: not finished yet, harmless`);
  if (outer && expected !== null && state.unfinished !== 'outer' && outer.checksum !== 0)
    parts.push(
      outer.checksum === expected
        ? `outer UDP checksum ${hex16(expected)} is right` +
            (state.unfinished === 'inner' ? ' for the finished inner packet' : '')
        : `outer UDP checksum ${hex16(outer.checksum ?? 0)} is wrong: the receiver expects ${hex16(expected)}`,
    );
  return parts.length > 0 ? parts.join('; ') : null;
}
