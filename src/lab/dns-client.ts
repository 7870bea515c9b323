/**
 * A lab's stub resolver that asks at moments told to the microsecond (see volley.ts), started inside a
 * namespace: `node dns-client.js [CPU]`. With a CPU, a second process, pinned there, sends the second
 * query of each lookup from the same socket.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { encodeQuery } from './dns-message.js';
import {
  atTheirMoments,
  fireVolleys,
  monotonic,
  type Aimed,
  type Measurement,
  type Plan,
  type Volley,
} from './volley.js';

export interface LookupPlan extends Plan {
  name: string;
  /** record types asked for, each by a query of its own, all from one socket */
  types: readonly number[];
  /** as skewUs, of the second process's query */
  otherSkewUs?: number;
}

export interface LookupVolley extends Volley<LookupPlan> {
  /** an unanswered query is sent again after so long, ms */
  repeatMs: number;
}

/** The first query's identifier of a lookup; the second's is the next. */
const idOf = (index: number, query: number): number => ((index * 2 + query) & 0xffff) + 1;

function send(socket: Socket, volley: LookupVolley, index: number, query: number): void {
  const { name, types } = volley.plans[index]!;
  const { address, port } = volley.server;
  socket.send(encodeQuery(idOf(index, query), name, types[query]!), port, address);
}

async function open(volley: LookupVolley, { sourcePort }: LookupPlan): Promise<Socket> {
  const socket = createSocket(isIPv6(volley.server.address) ? 'udp6' : 'udp4');
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(sourcePort, () => resolve());
  });
  return socket;
}

interface InFlight {
  measured: Promise<Measurement>;
  begin(): void;
  /** an answer arrived at its socket */
  answered(message: Buffer, from: { address: string; port: number }): void;
}

function measure(volley: LookupVolley, index: number, socket: Socket, others: number): InFlight {
  const { types } = volley.plans[index]!;
  const waiting = new Set(types.keys());
  const { port: sourcePort } = socket.address();
  let repeated = false;
  let start = 0;
  let startedAt = '';
  let done: (m: Measurement) => void;
  const timers: NodeJS.Timeout[] = [];
  let over = false;
  const end = (ms: number | null): void => {
    over = true;
    for (const timer of timers) clearTimeout(timer);
    socket.close();
    done({ index, sourcePort, ms, repeated, startedAt });
  };
  const answered = (message: Buffer, from: { address: string; port: number }): void => {
    // the other process may still send answers to repeated queries
    if (over) return;
    // no resolver takes an answer from another address than it asked
    if (from.address !== volley.server.address || from.port !== volley.server.port) return;
    waiting.delete(message.readUInt16BE(0) - idOf(index, 0));
    if (waiting.size === 0) end((monotonic() - start) / 1e6);
  };
  socket.on('message', answered);
  const repeat = (): void => {
    repeated = true;
    for (const query of waiting) send(socket, volley, index, query);
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
  volley?: LookupVolley;
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
  let volley: LookupVolley;
  const sockets: Socket[] = [];
  const order = (message: Order, handle: unknown): void => {
    if (message.volley) volley = message.volley;
    const index = message.socket;
    if (index !== undefined) {
      const socket = (sockets[index] = handle as Socket);
      socket.on('message', (answer, { address, port }) =>
        process.send?.({ index, message: answer.toString('latin1'), from: { address, port } }),
      );
      if (sockets.length === volley.plans.length) process.send?.({} satisfies Said);
    }
    if (message.startAt !== undefined)
      atTheirMoments(
        volley,
        message.startAt,
        (at) => send(sockets[at]!, volley, at, 1),
        ({ otherSkewUs = 0 }) => otherSkewUs,
      );
    if (message.close) for (const socket of sockets.splice(0)) socket.close();
  };
  process.on('message', order).on('disconnect', () => process.exit(0));
}

/** @param helper sends the second queries */
async function aim(volley: LookupVolley, helper: ChildProcess | null): Promise<Aimed> {
  const order = (message: Order, socket?: Socket) => helper?.send(message, socket as never);
  const sockets = await Promise.all(volley.plans.map((plan) => open(volley, plan)));
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
  return {
    measured: lookups.map(({ measured }) => measured),
    begin(startAt) {
      order({ startAt });
      atTheirMoments(volley, startAt, (index) => lookups[index]!.begin());
    },
    ended() {
      helper?.off('message', forwarded);
      order({ close: true });
    },
  };
}

function main(cpu: string | undefined): Promise<never> {
  const helper =
    cpu === undefined
      ? null
      : spawn('taskset', ['-c', cpu, process.execPath, process.argv[1]!, 'helper'], {
          stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
        });
  // it may be waiting for a socket that will not come
  return fireVolleys(
    (volley: LookupVolley) => aim(volley, helper),
    () => helper?.kill('SIGKILL'),
  );
}

if (process.argv[2] === 'helper') helperMain();
else await main(process.argv[2]);
