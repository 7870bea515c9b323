/**
 * A lab's resolver program, started inside a namespace: reads `Lookup`s (a JSON array on one line)
 * from its standard input, makes them, writes a `LookupResult` as a JSON line when each has ended.
 * Ends when its standard input does.
 */
import { lookup as systemLookup } from 'node:dns';
import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { encodeQuery, TYPE_A, TYPE_AAAA } from './dns-message.js';

export interface Lookup {
  name: string;
  /** name servers, in their order; 'system' has those of /etc/resolv.conf */
  servers: readonly string[];
  /**
   * whose ways it has: the C library's own getaddrinfo ('system'); musl's (all servers at once from
   * one socket, again after 2.5 s, given up after 5 s); glibc's (a socket and 5 s for each server,
   * two rounds); 'once' sends each question once
   */
  resolver: 'system' | 'musl' | 'glibc' | 'once';
  /** query types; A and AAAA if not told */
  types?: readonly number[];
  /** suffixes tried one after the other before the name itself; not for 'system' */
  search?: readonly string[];
  /** when it starts, ms after the first */
  startMs?: number;
  /** source port; lookups with the same one share a socket. Not told: any, a new socket each */
  localPort?: number;
  /** 'once' gives up after so long, ms */
  timeoutMs?: number;
  /** SO_RCVBUF of its sockets, bytes; the kernel doubles it, and takes no less than 2304 */
  receiveBuffer?: number;
  /** the whole process stands still for so long, soon after the first question */
  deafMs?: number;
}

export interface LookupResult {
  index: number;
  ok: boolean;
  /** until its answers were there, ms; null: they never were */
  answeredMs: number | null;
  error: string | null;
  source: string | null;
  startedAt: string;
}

const NXDOMAIN = 3;
/** By then the questions have left, ms. */
const DEAF_AFTER_MS = 100;

const sockets = new Map<number, Promise<Socket>>();
let nextId = process.pid & 0xffff;

function open(server: string, port?: number, receiveBuffer?: number): Promise<Socket> {
  const bind = () =>
    new Promise<Socket>((resolve, reject) => {
      const socket = createSocket({
        type: isIPv6(server) ? 'udp6' : 'udp4',
        ...(receiveBuffer ? { recvBufferSize: receiveBuffer } : {}),
      }).setMaxListeners(1000);
      socket.once('error', reject);
      socket.bind(port ?? 0, () => {
        socket.on('error', () => undefined);
        resolve(socket);
      });
    });
  if (port === undefined) return bind();
  let shared = sockets.get(port);
  if (!shared) sockets.set(port, (shared = bind()));
  return shared;
}

/** Answers to some queries, by id: resolves with their codes when all have one, null at the deadline. */
function collect(socket: Socket, wanted: Map<number, number | null>): Promise<void> {
  return new Promise((resolve) => {
    const take = (message: Buffer) => {
      const id = message.readUInt16BE(0);
      if (wanted.has(id)) wanted.set(id, message[3]! & 15);
      if ([...wanted.values()].every((code) => code !== null)) {
        socket.off('message', take);
        resolve();
      }
    };
    socket.on('message', take);
  });
}

function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

interface Step {
  codes: (number | null)[];
  source: string;
}

/** Asks for one name as the resolver does; codes are null for questions without an answer. */
async function ask(spec: Lookup, name: string): Promise<Step> {
  const { resolver, servers, types = [TYPE_A, TYPE_AAAA], localPort, timeoutMs = 5000 } = spec;
  const queries = types.map((type) => ({ id: (nextId = (nextId + 7919) & 0xffff), type }));
  const wanted = new Map<number, number | null>(queries.map(({ id }) => [id, null]));
  const opened: Socket[] = [];
  const send = (socket: Socket, server: string) => {
    for (const { id, type } of queries)
      if (wanted.get(id) === null) socket.send(encodeQuery(id, name, type), 53, server);
  };
  const rounds: [servers: readonly string[], waitMs: number][] =
    resolver === 'musl'
      ? [
          [servers, 2500],
          [servers, 2500],
        ]
      : resolver === 'glibc'
        ? [...servers, ...servers].map((server) => [[server], 5000])
        : [[servers.slice(0, 1), timeoutMs]];
  let source = '';
  let socket: Socket | undefined;
  const bySocket = new Map<string, Socket>();
  for (const [targets, waitMs] of rounds) {
    const key = resolver === 'glibc' ? targets[0]! : '';
    socket = bySocket.get(key);
    if (!socket) {
      socket = await open(targets[0]!, localPort, spec.receiveBuffer);
      bySocket.set(key, socket);
      if (localPort === undefined) opened.push(socket);
    }
    source ||= `:${socket.address().port}`;
    const all = collect(socket, wanted);
    for (const server of targets) send(socket, server);
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([all, new Promise((resolve) => (timer = setTimeout(resolve, waitMs)))]);
    clearTimeout(timer);
    if ([...wanted.values()].every((code) => code !== null)) break;
  }
  for (const each of opened) each.close();
  return { codes: [...wanted.values()], source };
}

async function resolve(spec: Lookup, index: number): Promise<LookupResult> {
  if (spec.startMs) await new Promise((done) => setTimeout(done, spec.startMs));
  if (spec.deafMs) setTimeout(standStill, DEAF_AFTER_MS, spec.deafMs);
  const startedAt = new Date().toISOString();
  const start = process.hrtime.bigint();
  const result = (error: string | null, source: string | null): LookupResult => {
    const answeredMs = Number(process.hrtime.bigint() - start) / 1e6;
    const ok = error === null;
    return { index, ok, answeredMs: ok ? answeredMs : null, error, source, startedAt };
  };
  if (spec.resolver === 'system')
    return new Promise((done) => {
      systemLookup(spec.name, { all: true }, (error) => done(result(error?.code ?? null, null)));
    });
  const names = [...(spec.search ?? []).map((suffix) => `${spec.name}.${suffix}`), spec.name];
  for (const [i, name] of names.entries()) {
    const { codes, source } = await ask(spec, name);
    if (codes.includes(null)) return result('timeout', source);
    if (codes.every((code) => code === 0)) return result(null, source);
    if (i === names.length - 1 || !codes.includes(NXDOMAIN))
      return result(codes.includes(NXDOMAIN) ? 'ENOTFOUND' : 'ESERVFAIL', source);
  }
  return result('ENOTFOUND', null);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const input = createInterface({ input: process.stdin });
  input.once('close', () => process.exit(0)); // the lab is gone, or has all it wants
  input.once('line', (line) => {
    (JSON.parse(line) as Lookup[]).forEach((spec, index) => {
      void resolve(spec, index).then((result) =>
        process.stdout.write(`${JSON.stringify(result)}\n`),
      );
    });
  });
}
