/**
 * A lab's server program, started inside a namespace: `node server.js JSON`, the JSON being `Ports`.
 * Says `ready` when it listens on all of them; ends when its standard input does, so that it never
 * outlives the lab, unless `stay` came there first.
 */
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

export interface Ports {
  /** answers HTTP here */
  answer?: number | readonly number[];
  /** connections that may wait for accept() there, listen(2); node's own default if not told */
  backlog?: number;
  /** length of the answer's body there; a short text if not told */
  bytes?: number;
  /** takes all it is sent here */
  sink?: number;
  /** takes connections and resets them here */
  reset?: number;
  /** leaves every SYN without an answer here */
  silent?: number;
}

const BODY = 'the lab answers\n';

/** Listens on every address, IPv6 too where the namespace has it. */
function listen(server: Server, port: number, backlog?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EAFNOSUPPORT' && error.code !== 'EADDRNOTAVAIL') return reject(error);
      server.once('error', reject);
      server.listen({ port, host: '0.0.0.0', backlog }, resolve);
    });
    server.listen({ port, host: '::', backlog }, resolve);
  });
}

async function answer(port: number, { backlog, bytes }: Ports): Promise<void> {
  const body = bytes === undefined ? BODY : 'x'.repeat(bytes);
  const text = `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`;
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => socket.end(text));
  });
  await listen(server, port, backlog);
}

async function sink(port: number): Promise<void> {
  await listen(
    createServer((socket) => void socket.on('error', () => undefined).resume()),
    port,
  );
}

async function reset(port: number): Promise<void> {
  await listen(
    createServer((socket) => void socket.on('error', () => undefined).resetAndDestroy()),
    port,
  );
}

/**
 * A listener whose accept queue is full drops SYNs (tcp_conn_request, 2.6 to 6.18): a thread listens
 * and never comes to accept(); two connections fill a backlog of 1.
 */
async function silent(port: number): Promise<void> {
  const worker = new Worker(new URL(import.meta.url), { workerData: port });
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  await Promise.all([fill(port), fill(port)]);
}

function fill(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    connect({ port, host: '127.0.0.1' }, resolve).on('error', reject);
  });
}

if (isMainThread) {
  let stays = false;
  process.stdin.on('data', () => (stays = true)).once('end', () => stays || process.exit(0));
  const ports = JSON.parse(process.argv[2] ?? '{}') as Ports;
  if (ports.answer) await Promise.all([ports.answer].flat().map((port) => answer(port, ports)));
  if (ports.sink) await sink(ports.sink);
  if (ports.reset) await reset(ports.reset);
  if (ports.silent) await silent(ports.silent);
  process.stdout.write('ready\n');
} else {
  const server = createServer();
  await listen(server, workerData as number, 1);
  parentPort?.postMessage((server.address() as AddressInfo).port);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
