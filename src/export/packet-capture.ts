import { AT, type Cursor } from '../event/cursor.js';
import type { Tunnel } from '../event/fact.js';
import { LAYOUT } from '../event/layout.js';
import { count } from '../explain/wording.js';
import type { SessionHeader } from '../session/session.js';
import { eventRow, type EventRow } from './event-row.js';
import type { Format } from './format.js';
import { packetComments } from './packet-comments.js';
import { enhancedPacketBlock, interfaceDescriptionBlock, sectionHeaderBlock } from './pcapng.js';
import type { Survey } from './survey.js';

/** Ports at which Wireshark looks for these by itself. */
const WELL_KNOWN: Readonly<Record<Tunnel['kind'], number>> = { vxlan: 4789, geneve: 6081 };
/** Findings that the section's comment lists; each one's packets name it anyway. */
const MAX_LISTED = 20;

/**
 * A pcapng file: each packet as it was at each point where it was seen. Frames begin at the IP
 * header and hold headers only; their comments say what else the kernel knew there.
 */
export class PacketCapture implements Format {
  /** number of the interface by namespace, device, direction */
  private readonly interfaces = new Map<string, number>();

  constructor(
    private readonly header: SessionHeader,
    private readonly survey: Survey,
    private readonly version: string,
  ) {}

  head(): Buffer {
    const { kernel } = this.header;
    return sectionHeaderBlock({
      hardware: kernel.machine,
      os: `Linux ${kernel.release} ${kernel.version}`.trim(),
      application: `skbwhy ${this.version}`,
      comments: this.comments(),
    });
  }

  record(cursor: Cursor): Buffer | null {
    if (!cursor.isEvent || cursor.packetLength === 0) return null;
    const row = eventRow(cursor, this.header, this.survey);
    if (row.captured === null) return null;
    const start = cursor.base + AT.packet;
    const { interfaceId, block } = this.interfaceOf(row);
    const packet = enhancedPacketBlock({
      interfaceId,
      time: BigInt(row.timeNs),
      bytes: cursor.bytes.subarray(start, start + row.captured),
      originalLength: row.length!,
      direction: row.direction ?? 'unknown',
      comments: packetComments(row, this.survey.proofs.get(row.seq) ?? []).map(printable),
    });
    return block ? Buffer.concat([block, packet]) : packet;
  }

  /** Its number, with the block that describes it when it is met for the first time. */
  private interfaceOf(row: EventRow): { interfaceId: number; block: Buffer | null } {
    const way = row.direction ?? (row.drop ? 'drop' : '');
    const name = [row.device === null ? row.netns : `${row.netns}/${row.device}`, way]
      .filter((word) => word !== '')
      .join(' ');
    const key = `${row.netnsInode}/${row.ifindex} ${name}`;
    const known = this.interfaces.get(key);
    if (known !== undefined) return { interfaceId: known, block: null };
    const interfaceId = this.interfaces.size;
    this.interfaces.set(key, interfaceId);
    const block = interfaceDescriptionBlock({
      name: printable(name),
      description: printable(this.describe(row)),
      snapLength: LAYOUT.packet[1],
    });
    return { interfaceId, block };
  }

  private describe(row: EventRow): string {
    const known = row.ifindex && this.survey.world.device(row.netnsInode, row.ifindex);
    const kind = known ? `${known.fact.kind} device`.trim() : 'device';
    const device = row.device === null ? 'no device' : `${kind} ${row.device} (${row.ifindex})`;
    const way =
      row.direction === 'in'
        ? 'packets on their way in'
        : row.direction === 'out'
          ? 'packets on their way out'
          : row.drop
            ? 'packets dropped'
            : 'packets';
    return `${way}: ${device}, network namespace ${row.netns} (${row.netnsInode})`;
  }

  /** What a reader must know of the whole file. */
  private comments(): string[] {
    const { header, survey } = this;
    const { findings, lost } = survey.report;
    const { events, truncated } = survey.report.sessions[0]!;
    const without = events - survey.packets;
    const comments = [
      `Session ${header.id} of ${header.node}, recorded from ${header.startedAt}` +
        `${header.filter ? ` with the filter '${header.filter}'` : ''}: ${count(survey.packets, 'packet observation')}. ` +
        'A packet stands here once for every point at which it was seen, as it was there; its ' +
        'comments say where, and what the kernel knew. Only headers were recorded, never payload: ' +
        'a frame is shorter than its packet.',
    ];
    const decodeAs = decodeAsOptions(survey);
    if (decodeAs.length > 0)
      comments.push(
        `Ports that Wireshark does not know by itself: tshark ${decodeAs.join(' ')} ` +
          '(Wireshark: Analyze, Decode As)',
      );
    comments.push(
      'The same packet at its next point looks like a retransmission: ' +
        'tshark -o tcp.analyze_sequence_numbers:FALSE keeps Wireshark from saying so.',
    );
    for (const finding of findings.slice(0, MAX_LISTED))
      comments.push(`${finding.verdict} (${finding.confidence}): ${finding.title}`);
    if (findings.length > MAX_LISTED)
      comments.push(`and ${count(findings.length - MAX_LISTED, 'more finding')}`);
    if (without > 0)
      comments.push(
        `${count(without, 'event')} without a packet (socket states, retransmission timers) ` +
          `${without === 1 ? 'is' : 'are'} not here: skbwhy export --jsonl has them`,
      );
    if (lost.ring + lost.missed > 0)
      comments.push(`${count(lost.ring + lost.missed, 'event')} could not be recorded`);
    if (truncated) comments.push(`The session's file is not whole: ${truncated}`);
    return comments.map(printable);
  }
}

/** What to tell tshark of ports that it does not know: `-d udp.port==8472,vxlan`. */
export function decodeAsOptions(survey: Survey): string[] {
  const tunnels = [...survey.tunnelPorts].filter(([port, kind]) => WELL_KNOWN[kind] !== port);
  const dns = [...survey.dnsPorts].map((port) => [port, 'dns'] as const);
  return [...tunnels, ...dns].map(([port, protocol]) => `-d udp.port==${port},${protocol}`);
}

/** Names come from the kernel and from files: nothing that moves a terminal's cursor. */
function printable(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, '?');
}
