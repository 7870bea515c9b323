/** Building blocks of the probe's live tests: namespaces of their own, and what a session saw. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { decodeFact, type Fact } from '../../src/event/fact.js';
import { LAYOUT } from '../../src/event/layout.js';
import { POINTS } from '../../src/event/point.js';
import { trace, type TraceOptions } from '../../src/session/live.js';
import type { Session } from '../../src/session/session.js';

/** Runs a command; throws with its stderr when it fails. */
export function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs a line of shell inside a namespace. */
export function inside(netns: string, line: string): string {
  return run('ip', 'netns', 'exec', netns, 'sh', '-c', line);
}

/** The last word of a shell line is run in the background until stop() is called. */
export function background(
  netns: string,
  ...args: string[]
): { child: ChildProcess; stop(): void } {
  const child = spawn('ip', ['netns', 'exec', netns, ...args], { stdio: 'ignore' });
  return { child, stop: () => void child.kill('SIGKILL') };
}

/** A name that no other test run uses. */
export function netnsName(suffix: string): string {
  return `skbwhy-probe-${process.pid}-${suffix}`;
}

export function addNetns(name: string): void {
  run('ip', 'netns', 'add', name);
  run('ip', '-n', name, 'link', 'set', 'lo', 'up');
}

export function removeNetns(...names: string[]): void {
  for (const name of names)
    try {
      run('ip', 'netns', 'del', name);
    } catch {
      // it was not made
    }
}

/** An event, decoded the plain way. */
export interface Seen {
  point: string;
  field(name: keyof typeof LAYOUT): bigint;
  bytes: Buffer;
  packet: Buffer;
}

export interface Collected {
  session: Session;
  events: Seen[];
  facts: Fact[];
  /** every record's running number, as the batches said */
  count: number;
  bytes: number;
  done: Promise<void>;
}

/** Traces and collects until the session is closed. */
export async function collect(options: TraceOptions): Promise<Collected> {
  const session = await trace({ host: null, ...options });
  const collected: Collected = {
    session,
    events: [],
    facts: [],
    count: 0,
    bytes: 0,
    done: Promise.resolve(),
  };
  collected.done = (async () => {
    for await (const batch of session) {
      if (batch.firstSeq !== collected.count) throw new Error('batches do not follow each other');
      let offset = 0;
      for (let i = 0; i < batch.count; i++) {
        const size = batch.bytes.readUInt32LE(offset);
        const record = batch.bytes.subarray(offset, offset + size);
        if (record[4] === 2) collected.facts.push(decodeFact(batch.bytes, offset));
        else collected.events.push(decode(record));
        offset += size;
      }
      if (offset !== batch.bytes.length) throw new Error('a batch is not its records');
      collected.count += batch.count;
      collected.bytes += batch.bytes.length;
    }
  })();
  return collected;
}

export function decode(record: Buffer): Seen {
  const field = (name: keyof typeof LAYOUT) => {
    const [offset, size] = LAYOUT[name];
    return size === 8 ? record.readBigUInt64LE(offset) : BigInt(record.readUIntLE(offset, size));
  };
  const start = LAYOUT.packet[0];
  return {
    point: POINTS[Number(field('point'))] ?? '',
    field,
    bytes: record,
    packet: record.subarray(start, start + Number(field('packet_length'))),
  };
}

/** `10.0.0.1:80 > 10.0.0.2:81` of a tuple field. */
export function tuple(event: Seen, name: 'original' | 'reply' | 'socket.flow'): string {
  const bytes = event.bytes.subarray(LAYOUT[name][0]);
  const size = bytes[36] === 6 ? 16 : 4;
  const address = (at: number) =>
    size === 4 ? bytes.subarray(at, at + 4).join('.') : bytes.toString('hex', at, at + 16);
  const port = (at: number) => bytes.readUInt16BE(at);
  return `${address(0)}:${port(2 * size)} > ${address(size)}:${port(2 * size + 2)}`;
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until something is true; throws after `ms`. */
export async function until(what: string, ms: number, test: () => boolean): Promise<void> {
  const end = performance.now() + ms;
  while (!test()) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(50);
  }
}

/** Two nodes joined by a VXLAN with a Service of the first one's address, as kube-proxy makes it. */
export interface Nodes {
  client: string;
  server: string;
  service: string;
  remove(): void;
}

/** @param port of the tunnel */
export function vxlanNodes(port: number): Nodes {
  const names = [netnsName('a'), netnsName('b')] as const;
  const [client, server] = names;
  removeNetns(...names);
  for (const name of names) addNetns(name);
  run(
    'ip',
    '-n',
    client,
    'link',
    'add',
    'eth0',
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'netns',
    server,
  );
  names.forEach((name, i) => {
    const own = i + 1;
    const other = 2 - i;
    inside(
      name,
      `ip link set eth0 address 02:00:00:00:01:0${own}
       ip addr add 192.168.77.${own}/24 dev eth0; ip link set eth0 up
       ip link add overlay0 type vxlan id 7 dstport ${port} dev eth0 local 192.168.77.${own} nolearning udpcsum
       ip link set overlay0 address 02:00:00:00:02:0${own}
       ip addr add 10.77.${own}.0/32 dev overlay0; ip link set overlay0 up
       ip route add 10.77.${other}.0/24 via 10.77.${other}.0 dev overlay0 onlink
       ip neigh add 10.77.${other}.0 lladdr 02:00:00:00:02:0${other} dev overlay0
       ip neigh add 192.168.77.${other} lladdr 02:00:00:00:01:0${other} dev eth0
       ip route add default via 192.168.77.${other}
       bridge fdb append 02:00:00:00:02:0${other} dev overlay0 dst 192.168.77.${other}
       ethtool -K eth0 tx off >/dev/null`,
    );
  });
  inside(
    client,
    `iptables-legacy-restore <<E
*nat
-A OUTPUT -d 10.96.0.10/32 -p tcp --dport 80 -j MARK --set-xmark 0x4000/0x4000
-A OUTPUT -d 10.96.0.10/32 -p tcp --dport 80 -j DNAT --to-destination 10.77.2.0:8080
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
E`,
  );
  return { client, server, service: '10.96.0.10', remove: () => removeNetns(...names) };
}
