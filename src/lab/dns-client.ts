/**
 * A lab's stub resolver, started inside a namespace: `node dns-client.js [CPU]`. Reads a `Volley` (JSON
 * on one line) from its standard input, opens its sockets, says `{"ready":true}`, reads the moment at
 * which to begin, and writes a `LookupMeasurement` as a JSON line when each lookup has ended; then the
 * next volley. With a CPU, a second process, pinned there, sends the second query of each lookup from
 * the same socket. Ends when its standard input does, so that it never outlives the lab.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { encodeQuery } from './dns-message.js';

export interface LookupPlan {
  name: string;
  /** record types asked for, each by a query of its own, all from one socket */
  types: readonly number[];
  /** 0: any */
  sourcePort: number;
  /** how long after its turn the queries leave, µs; of the second process's: `otherSkewUs` */
  skewUs: number;
  otherSkewUs?: number;
}

export interface Volley {
  server: { address: string; port: number };
  /** one after another */
  lookups: readonly LookupPlan[];
  /** from one lookup to the next, µs */
  gapUs: number;
  /** an unanswered query is sent again after so long, ms */
  repeatMs: number;
  /** a lookup is given up after so long, ms */
  timeoutMs: number;
}

export interface LookupMeasurement {
  index: number;
  source: string;
  /** from the first query to the last answer; null: not all were answered */
  ms: number | null;
  /** queries sent, repeats included */
  sent: number;
  /** answers from another address than was asked, which no resolver takes */
  foreign: number;
  startedAt: string;
}

interface Task {
  /** CLOCK_MONOTONIC, ns */
  at: number;
  index: number;
}

/** CLOCK_MONOTONIC, ns; a double is exact for 104 days of uptime. */
export function monotonic(): number {
  return Number(process.hrtime.bigint());
}

/** Calls `fire` for each task at its moment, to the microsecond: burns the CPU in between. */
function atTheirMoments(tasks: readonly Task[], fire: (index: number) => void): void {
  const [task, ...rest] = tasks;
  if (!task) return;
  while (monotonic() < task.at);
  fire(task.index);
  // what a send leaves to the end of this turn comes before the next one
  setImmediate(() => atTheirMoments(rest, fire));
}

/** The first query's identifier of a lookup; the second's is the next. */
const idOf = (index: number, query: number): number => ((index * 2 + query) & 0xffff) + 1;

function send(socket: Socket, volley: Volley, index: number, query: number): void {
  const { name, types } = volley.lookups[index]!;
  const { address, port } = volley.server;
  socket.send(encodeQuery(idOf(index, query), name, types[query]!), port, address);
}

async function open(volley: Volley, { sourcePort }: LookupPlan): Promise<Socket> {
  const socket = createSocket(isIPv6(volley.server.address) ? 'udp6' : 'udp4');
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(sourcePort, () => resolve());
  });
  return socket;
}

interface InFlight {
  measured: Promise<LookupMeasurement>;
  begin(): void;
  /** an answer arrived at its socket */
  answered(message: Buffer, from: { address: string; port: number }): void;
}

function measure(volley: Volley, index: number, socket: Socket, others: number): InFlight {
  const { types } = volley.lookups[index]!;
  const waiting = new Set(types.keys());
  const { port } = socket.address();
  let sent = types.length;
  let foreign = 0;
  let start = 0;
  let startedAt = '';
  let done: (m: LookupMeasurement) => void;
  const timers: NodeJS.Timeout[] = [];
  const end = (ms: number | null): void => {
    for (const timer of timers) clearTimeout(timer);
    socket.close();
    done({ index, source: String(port), ms, sent, foreign, startedAt });
  };
  const answered = (message: Buffer, from: { address: string; port: number }): void => {
    if (from.address !== volley.server.address || from.port !== volley.server.port)
      return void foreign++;
    waiting.delete(message.readUInt16BE(0) - idOf(index, 0));
    if (waiting.size === 0) end((monotonic() - start) / 1e6);
  };
  socket.on('message', answered);
  const repeat = (): void => {
    for (const query of waiting) {
      sent++;
      send(socket, volley, index, query);
    }
    timers.push(setTimeout(repeat, volley.repeatMs));
  };
  return {
    answered,
    measured: new Promise((resolve) => (done = resolve)),
    begin() {
      start = monotonic();
      startedAt = new Date().toISOString();
      for (const query of types.keys()) if (query < others) send(socket, volley, index, query);
      timers.push(setTimeout(repeat, volley.repeatMs), setTimeout(end, volley.timeoutMs, null));
    },
  };
}

/** What the process that sends second queries is told; with `socket` comes the socket itself. */
interface Order {
  volley?: Volley;
  socket?: number;
  startAt?: number;
  close?: true;
}

/** What it says: it has all sockets, or took an answer that is the other's. */
interface Said {
  index?: number;
  message?: string;
  from?: { address: string; port: number };
}

/** Both processes read from one socket: what this one gets goes to the other. */
function helperMain(): void {
  let volley: Volley;
  const sockets: Socket[] = [];
  const order = (message: Order, handle: unknown): void => {
    if (message.volley) volley = message.volley;
    const index = message.socket;
    if (index !== undefined) {
      const socket = (sockets[index] = handle as Socket);
      socket.on('message', (answer, { address, port }) =>
        process.send?.({ index, message: answer.toString('latin1'), from: { address, port } }),
      );
      if (sockets.length === volley.lookups.length) process.send?.({} satisfies Said);
    }
    if (message.startAt !== undefined) {
      const { startAt } = message;
      const tasks = volley.lookups.map(({ otherSkewUs = 0 }, at) => ({
        index: at,
        at: startAt + (at * volley.gapUs + otherSkewUs) * 1000,
      }));
      atTheirMoments(tasks, (at) => send(sockets[at]!, volley, at, 1));
    }
    if (message.close) for (const socket of sockets.splice(0)) socket.close();
  };
  process.on('message', order).on('disconnect', () => process.exit(0));
}

async function volleyOnce(
  volley: Volley,
  helper: ChildProcess | null,
  next: () => Promise<string>,
): Promise<void> {
  const order = (message: Order, socket?: Socket) => helper?.send(message, socket as never);
  const sockets = await Promise.all(volley.lookups.map((plan) => open(volley, plan)));
  const lookups = sockets.map((socket, index) => measure(volley, index, socket, helper ? 1 : 9));
  if (helper) {
    const ready = new Promise((resolve) => helper.once('message', resolve));
    order({ volley });
    for (const [index, socket] of sockets.entries()) order({ socket: index }, socket);
    await ready;
  }
  const forwarded = ({ index, message, from }: Said): void => {
    if (index !== undefined && message !== undefined && from)
      lookups[index]!.answered(Buffer.from(message, 'latin1'), from);
  };
  helper?.on('message', forwarded);
  process.stdout.write('{"ready":true}\n');
  const startAt = Number(await next());
  order({ startAt });
  const tasks = volley.lookups.map(({ skewUs }, index) => ({
    index,
    at: startAt + (index * volley.gapUs + skewUs) * 1000,
  }));
  atTheirMoments(tasks, (index) => lookups[index]!.begin());
  for (const { measured } of lookups)
    void measured.then((m) => process.stdout.write(`${JSON.stringify(m)}\n`));
  await Promise.all(lookups.map(({ measured }) => measured));
  helper?.off('message', forwarded);
  order({ close: true });
}

async function main(cpu: string | undefined): Promise<void> {
  const helper =
    cpu === undefined
      ? null
      : spawn('taskset', ['-c', cpu, process.execPath, process.argv[1]!, 'helper'], {
          stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
        });
  const input = createInterface({ input: process.stdin });
  input.once('close', () => {
    helper?.kill('SIGKILL'); // it may be waiting for a socket that will not come
    process.exit(0); // the lab is gone, or has all it wants
  });
  const lines = input[Symbol.asyncIterator]();
  const next = async (): Promise<string> => (await lines.next()).value as string;
  for (;;) await volleyOnce(JSON.parse(await next()) as Volley, helper, next);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (process.argv[2] === 'helper') helperMain();
  else await main(process.argv[2]);
}
