import { rcodeName, typeName, type DnsMessage } from '../event/dns.js';
import type { Fact } from '../event/fact.js';
import type { EventRow, LayerRow, TupleRow } from '../export/event-row.js';
import { count, duration, hex, hex16, hex32 } from '../explain/wording.js';
import { h, type Child } from './dom.js';
import { MEANING } from './points.js';
import type { Decoded } from './records.js';

type Row = [name: string, ...value: Child[]] | null;

/** A record with every field that says something. */
export function eventView(decoded: Decoded): Child[] {
  return decoded.type === 'event' ? eventParts(decoded) : factParts(decoded.fact, decoded.timeMs);
}

function eventParts({ row, dns, bytes }: Decoded & { type: 'event' }): Child[] {
  return [
    h('p', { class: 'meaning' }, MEANING[row.point as keyof typeof MEANING] ?? ''),
    row.drop &&
      h(
        'div',
        { class: 'drop' },
        pairs(
          ['reason', h('code', {}, row.drop.reason)],
          ['location', h('code', {}, row.drop.symbol)],
        ),
      ),
    pairs(
      ['time', h('time', { datetime: row.time }, row.time.replace('T', ' ').replace('Z', ' UTC'))],
      ['namespace', row.netns],
      row.device === null ? null : ['device', row.device, direction(row)],
      row.hook === null ? null : ['hook', row.hook],
      row.result === null ? null : ['result', row.result],
      ['mark', ...markParts(row)],
      ['CPU', String(row.cpu)],
    ),
    ...flowParts(row),
    dns && dnsPart(dns),
    ...checksumParts(row),
    ...conntrackParts(row),
    ...socketParts(row),
    part(
      'Identity in the kernel',
      pairs(
        row.skb === null ? null : ['skb', h('code', {}, row.skb)],
        row.sock === null ? null : ['socket', h('code', {}, row.sock)],
        row.hash === 0 ? null : ['packet hash', h('code', {}, hex32(row.hash))],
        row.sockHash === 0 ? null : ['socket hash', h('code', {}, hex32(row.sockHash))],
        row.flags.length === 0 ? null : ['flags', row.flags.join(', ')],
        ['namespace', `inode ${row.netnsInode}`],
      ),
    ),
    bytes.length > 0 &&
      h(
        'details',
        { 'data-key': 'bytes' },
        h('summary', {}, `The ${bytes.length} bytes of headers that were recorded`),
        h('pre', { class: 'bytes', tabindex: 0 }, hexDump(bytes)),
      ),
  ];
}

function direction({ direction }: EventRow): string | null {
  return direction === null ? null : direction === 'in' ? ', coming in' : ', going out';
}

function markParts({ mark, before }: EventRow): Child[] {
  if (!before || before.mark === mark) return [h('code', {}, hex(mark))];
  return [h('code', {}, hex(before.mark)), ' → ', h('code', {}, hex(mark))];
}

function flowParts(row: EventRow): Child[] {
  const { outer, inner, before } = row;
  if (!outer) return [];
  const ports: Row =
    before &&
    (before.sourcePort !== outer.sourcePort || before.destinationPort !== outer.destinationPort)
      ? ['ports before', h('code', {}, `${before.sourcePort} → ${before.destinationPort}`)]
      : null;
  return [
    part(
      inner ? `Outer packet${row.vni === null ? '' : `, network ${row.vni}`}` : 'Packet',
      layer(outer, row.length, ports),
    ),
    inner && part('Inner packet', layer(inner, null, null)),
    ...errorParts(row),
  ];
}

function errorParts({ icmp }: EventRow): Child[] {
  if (!icmp) return [];
  const { type, code, mtu, quoted } = icmp;
  return [
    part(
      'ICMP error',
      pairs(
        ['type and code', `${type}, ${code}`],
        mtu === null ? null : ['what fits', `${mtu} bytes`],
      ),
    ),
    part('The packet that it is about', layer(quoted, null, null)),
  ];
}

function layer(one: LayerRow, length: number | null, more: Row): HTMLElement {
  return pairs(
    ['from', h('code', {}, endpoint(one.source, one.sourcePort))],
    ['to', h('code', {}, endpoint(one.destination, one.destinationPort))],
    ['protocol', `${one.protocol.toUpperCase()} over IPv${one.version}`],
    one.tcpFlags === null
      ? null
      : ['flags', one.tcpFlags.join(' '), h('small', {}, ` seq ${one.tcpSeq}, ack ${one.tcpAck}`)],
    more,
    one.checksum === null ? null : ['checksum', h('code', {}, hex16(one.checksum))],
    one.identification === null ? null : ['identification', String(one.identification)],
    length === null ? null : ['length', `${length} bytes`],
  );
}

function dnsPart(dns: DnsMessage): HTMLElement {
  return part(
    dns.response ? 'DNS answer' : 'DNS question',
    pairs(
      ['name', dns.name === null ? 'not recorded whole' : h('code', {}, dns.name || '.')],
      dns.type === 0 ? null : ['type', typeName(dns.type)],
      dns.response ? ['result', `${rcodeName(dns.rcode)}, ${count(dns.answers, 'record')}`] : null,
      dns.truncated ? ['truncated', 'yes: it is asked again over TCP'] : null,
      ['identification', String(dns.id)],
    ),
  );
}

function checksumParts({ checksum, outer, inner, before }: EventRow): Child[] {
  if (!checksum) return [];
  const { expectedOuter, unfinished, ipSummed } = checksum;
  const now = outer?.checksum ?? null;
  const right =
    expectedOuter === null || now === null || unfinished === 'outer'
      ? null
      : now === 0
        ? 'none is carried'
        : now === expectedOuter
          ? 'right'
          : `wrong: ${hex16(now)} is carried`;
  return [
    part(
      'Checksum',
      pairs(
        ['state', h('code', {}, `CHECKSUM_${ipSummed}`)],
        unfinished === null || (unfinished === 'outer' && !inner && expectedOuter !== null)
          ? null
          : [
              'still to be finished',
              `the ${inner ? unfinished : "packet's own"} one, by the device`,
            ],
        expectedOuter === null || !inner
          ? null
          : ['outer expected', h('code', {}, hex16(expectedOuter)), right && `, ${right}`],
        before && now !== null && before.checksum !== now
          ? ['before', h('code', {}, hex16(before.checksum))]
          : null,
      ),
    ),
  ];
}

function conntrackParts({ conntrack }: EventRow): Child[] {
  if (!conntrack) return [];
  const { info, statusNames, original, reply, timeoutMs, zone, mark, id, startNs } = conntrack;
  return [
    part(
      'Connection tracking',
      pairs(
        info === null ? null : ['packet is', info],
        ['original', ...tuple(original)],
        ['reply', ...tuple(reply)],
        ['status', statusNames.length > 0 ? statusNames.join(', ') : 'none yet'],
        timeoutMs === null ? null : ['expires in', duration(timeoutMs)],
        startNs === null
          ? null
          : ['since', new Date(Number(BigInt(startNs) / 1000000n)).toISOString()],
        zone === 0 ? null : ['zone', String(zone)],
        mark === 0 ? null : ['mark', h('code', {}, hex(mark))],
        ['entry', h('code', {}, id)],
      ),
    ),
  ];
}

function socketParts({ socket, point }: EventRow): Child[] {
  if (!socket) return [];
  return [
    part(
      'Socket',
      pairs(
        socket.flow && ['flow', ...tuple(socket.flow)],
        point === 'socket.state'
          ? ['state', h('code', {}, `${socket.oldState || 'none'} → ${socket.newState || 'none'}`)]
          : null,
        socket.command === null ? null : ['process', socket.command],
        socket.pid === null ? null : ['pid', String(socket.pid)],
        socket.retransmits === null ? null : ['retransmissions', String(socket.retransmits)],
        socket.rtoMs === null ? null : ['next timeout', duration(socket.rtoMs)],
        socket.txrehash === null ? null : ['SO_TXREHASH', String(socket.txrehash)],
      ),
    ),
  ];
}

function factParts(fact: Fact, timeMs: number): Child[] {
  const { fact: kind, ...rest } = fact;
  return [
    h('p', { class: 'meaning' }, FACTS[kind] ?? 'What else is known of the node.'),
    pairs(['time', `${duration(Math.max(timeMs, 0))} after the session's start`]),
    h('pre', { class: 'fact', tabindex: 0 }, JSON.stringify(rest, null, 2)),
  ];
}

const FACTS: Readonly<Record<Fact['fact'], string>> = {
  netns: 'A network namespace appeared, got a name, or went.',
  device: 'A network device appeared, changed, or went.',
  rules: 'The rules of a namespace that mark or translate packets.',
  datapath: 'What carries packets besides the stack that is watched.',
  settings: 'Settings of the kernel that matter here.',
  counters: 'Counters of the kernel.',
  sockets: 'Sockets that had no room for packets.',
  process: 'The process behind a socket.',
  symbol: 'What stands at an address in the kernel.',
  lost: 'Events were lost.',
  tick: 'Time passed.',
};

function tuple({ protocol, source, sourcePort, destination, destinationPort }: TupleRow): Child[] {
  return [
    h('code', {}, `${endpoint(source, sourcePort)} → ${endpoint(destination, destinationPort)}`),
    ` ${protocol}`,
  ];
}

function endpoint(address: string, port: number | null): string {
  if (port === null) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function part(title: string, ...children: Child[]): HTMLElement {
  return h('section', {}, h('h3', {}, title), ...children);
}

function pairs(...rows: Row[]): HTMLElement {
  return h(
    'dl',
    { class: 'pairs' },
    ...rows.flatMap((row) => {
      if (!row) return [];
      const [name, ...value] = row;
      return [h('div', {}, h('dt', {}, name), h('dd', {}, ...value))];
    }),
  );
}

/** Sixteen bytes a line, each line with its offset. */
function hexDump(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const line = [...bytes.subarray(at, at + 16)].map((byte) => byte.toString(16).padStart(2, '0'));
    lines.push(`${at.toString(16).padStart(4, '0')}  ${line.join(' ')}`);
  }
  return lines.join('\n');
}
