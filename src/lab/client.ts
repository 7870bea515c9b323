/**
 * A lab's client program, started inside a namespace: reads `Connection`s (a JSON array on one line)
 * from its standard input, makes them all at once, writes a `Measurement` as a JSON line when each has
 * ended. Ends when its standard input does, so that it never outlives the lab.
 */
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { txrehashSwitch } from './txrehash.js';

export interface Connection {
  address: string;
  port: number;
  /** gives up after so long, ms */
  timeoutMs: number;
  /** of the request's body; 0 if not told */
  bytes?: number;
  /** turns on SO_TXREHASH so long after it began, unless it stands by then, ms; never if not told */
  rehashAfterMs?: number;
}

export interface Measurement {
  /** which connection of the array */
  index: number;
  source: string | null;
  ok: boolean;
  connectMs: number | null;
  answeredMs: number | null;
  error: string | null;
  startedAt: string;
}

/** `address:port`, with brackets around IPv6. */
export function endpoint(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function measure(connection: Connection, index: number): Promise<Measurement> {
  const { address, port, timeoutMs, bytes = 0, rehashAfterMs } = connection;
  const request =
    bytes === 0
      ? 'GET / HTTP/1.0\r\n\r\n'
      : `POST / HTTP/1.0\r\nContent-Length: ${bytes}\r\n\r\n${'x'.repeat(bytes)}`;
  const turnOnTxrehash = rehashAfterMs === undefined ? null : txrehashSwitch();
  return new Promise((resolve) => {
    const startedAt = new Date().toISOString();
    const start = process.hrtime.bigint();
    const sinceStart = () => Number(process.hrtime.bigint() - start) / 1e6;
    let connectMs: number | null = null;
    let source: string | null = null;
    const done = (error: string | null) => {
      const ok = error === null;
      const answeredMs = ok ? sinceStart() : null;
      resolve({ index, source, ok, connectMs, answeredMs, error, startedAt });
      clearTimeout(timer);
      clearTimeout(rehash);
      socket.destroy();
    };
    const timer = setTimeout(() => done('timeout'), timeoutMs);
    const socket = connect({ host: address, port });
    const rehash = turnOnTxrehash
      ? setTimeout(() => turnOnTxrehash(socket), rehashAfterMs)
      : undefined;
    setImmediate(() => {
      // connect() has bound it by now
      const bound = socket.address();
      if ('port' in bound) source = endpoint(bound.address, bound.port);
    });
    socket.once('connect', () => {
      connectMs = sinceStart();
      clearTimeout(rehash);
      socket.write(request);
    });
    socket.once('data', () => done(null));
    socket.once('end', () => done('no answer'));
    socket.once('error', (error: NodeJS.ErrnoException) => done(error.code ?? error.message));
  });
}

function main(): void {
  const input = createInterface({ input: process.stdin });
  input.once('close', () => process.exit(0)); // the lab is gone, or has all it wants
  input.once('line', (line) => {
    (JSON.parse(line) as Connection[]).forEach((connection, index) => {
      void measure(connection, index).then((measurement) =>
        process.stdout.write(`${JSON.stringify(measurement)}\n`),
      );
    });
  });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main();
