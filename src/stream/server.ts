import { createServer, STATUS_CODES, type IncomingMessage, type Server } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type WebSocket } from 'ws';
import { z } from 'zod';
import { SkbwhyError } from '../event/errors.js';
import type { Access, ListenAddress, Visitor } from './access.js';
import type { Channel } from './channel.js';
import type { Speed } from '../session/replay.js';
import { pack, unpack } from './msgpack.js';
import { SECURITY_HEADERS, type PageFiles } from './page-files.js';
import {
  CLOSE,
  clientMessageSchema,
  filterSchema,
  MAX_CLIENT_MESSAGE,
  STREAM_PATH,
  SUBPROTOCOL,
  type ClientMessage,
  type StreamFilter,
} from './protocol.js';
import { Subscriber, type Resume } from './subscriber.js';
import { TokenBucket } from './token-bucket.js';

/** Connections open at once, streams and others. */
const MAX_SOCKETS = 256;
const MAX_CLIENTS = 64;
/** New streams a second, and at once. */
const CONNECT_RATE = [20, 100] as const;
/** Messages of a client a second, and at once. */
const MESSAGE_RATE = [50, 200] as const;
const PING_MS = 15_000;
/** A client that answered no ping for so long is gone. It may be stopped (a debugger, a full pipe). */
const SILENT_MS = 300_000;
/** What a client may take to say goodbye, ms. */
const CLOSE_MS = 300;

/** What clients may do with a replay. */
export interface PlaybackControl {
  seek(ms: number): void;
  speed(speed: Speed): void;
  pause(paused: boolean): void;
}

export interface ServerOptions {
  listen: ListenAddress;
  access: Access;
  channel: Channel;
  page: PageFiles;
  /** null: the session is live */
  control: PlaybackControl | null;
  /** text for /metrics, with its content type */
  metrics?: (() => Promise<{ type: string; text: string }>) | undefined;
  /** told in the log */
  log?: ((message: string, details: Record<string, unknown>) => void) | undefined;
}

const resumeSchema = z.object({
  session: z.string().max(200),
  after: z.coerce.number().int().min(-1),
  findings: z.coerce.number().int().nonnegative(),
});

/** Serves the stream, the page, health and metrics. */
export class StreamServer {
  private readonly http: Server;
  private readonly sockets: WebSocketServer;
  private readonly connects = new TokenBucket(...CONNECT_RATE);
  private readonly pings: NodeJS.Timeout;
  private readonly seen = new WeakMap<WebSocket, number>();
  private refused = 0;

  private constructor(private readonly options: ServerOptions) {
    this.sockets = new WebSocketServer({
      noServer: true,
      maxPayload: MAX_CLIENT_MESSAGE,
      perMessageDeflate: false,
      handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
    });
    this.http = createServer({
      headersTimeout: 5000,
      requestTimeout: 10_000,
      keepAliveTimeout: 5000,
      connectionsCheckingInterval: 1000,
      maxHeaderSize: 16 << 10,
    });
    this.http.maxConnections = MAX_SOCKETS;
    this.http.on('request', (request: IncomingMessage, response: ServerResponse) => {
      this.answer(request, response).catch((error: unknown) => {
        this.log('a request failed', { error: String(error) });
        response.destroy();
      });
    });
    this.http.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) =>
      this.upgrade(request, socket, head),
    );
    this.pings = setInterval(() => this.ping(), PING_MS);
    this.pings.unref();
  }

  /** @throws SkbwhyError 'cannot-listen' */
  static async listen(options: ServerOptions): Promise<StreamServer> {
    const server = new StreamServer(options);
    const { host, port } = options.listen;
    await new Promise<void>((resolve, reject) => {
      server.http.once('error', (error: NodeJS.ErrnoException) => {
        const why = error.code === 'EADDRINUSE' ? 'it is in use' : error.message;
        clearInterval(server.pings);
        reject(
          new SkbwhyError(
            'cannot-listen',
            `cannot listen on ${host} port ${port} (${why}): choose another by --listen`,
            { cause: error },
          ),
        );
      });
      server.http.listen(port, host, resolve);
    });
    server.http.on('error', (error) => server.log('server-error', { error: error.message }));
    return server;
  }

  /** Where it listens: `http://127.0.0.1:6363`. */
  get url(): string {
    const { address, port, family } = this.http.address() as AddressInfo;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  /** Streams open now. */
  get clients(): number {
    return this.sockets.clients.size;
  }

  /** Streams refused so far. */
  get refusals(): number {
    return this.refused;
  }

  /** Says goodbye to the clients and ends within CLOSE_MS. */
  async close(): Promise<void> {
    clearInterval(this.pings);
    const closed = new Promise((resolve) => this.http.close(resolve));
    const gone = [...this.sockets.clients].map((client) => {
      client.close(CLOSE.goingAway, 'the server ends');
      return new Promise((resolve) => client.once('close', resolve));
    });
    this.http.closeIdleConnections();
    await Promise.race([Promise.all(gone), new Promise((r) => setTimeout(r, CLOSE_MS).unref())]);
    for (const client of this.sockets.clients) client.terminate();
    this.http.closeAllConnections();
    await closed;
  }

  // --- HTTP

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const target = parseTarget(request);
    const plain = (status: number, text: string, more: Record<string, string> = {}): void => {
      const type = 'text/plain; charset=utf-8';
      response.writeHead(status, { ...SECURITY_HEADERS, 'content-type': type, ...more });
      response.end(`${text}\n`);
    };
    if (!target) return plain(400, 'a path is wanted');
    if (request.method !== 'GET' && request.method !== 'HEAD')
      return plain(405, 'GET is all there is', { allow: 'GET, HEAD' });
    if (target.pathname === '/healthz') return plain(200, 'ok');
    const { access, page, metrics } = this.options;
    const visitor: Visitor = { headers: request.headers, query: target.query };
    if (target.pathname === '/metrics' && metrics) {
      const refusal = access.refuse(visitor);
      if (refusal) return plain(refusal.status, refusal.reason, challenge(refusal.status));
      const { type, text } = await metrics();
      return plain(200, text.trimEnd(), { 'content-type': type });
    }
    if (target.pathname === STREAM_PATH)
      return plain(426, `a WebSocket is served here (${SUBPROTOCOL})`, { upgrade: 'websocket' });
    // the page itself holds nothing: it has to bring the token for the stream
    const refusal = access.refuseSite(visitor);
    if (refusal) return plain(refusal.status, refusal.reason);
    if (!page.serve(target.pathname, request.headers['if-none-match'], response))
      plain(404, 'nothing stands here');
  }

  private upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    const target = parseTarget(request);
    const refuse = (status: number, reason: string): void => {
      this.refused++;
      refuseUpgrade(socket, status, reason);
    };
    if (!target || target.pathname !== STREAM_PATH) return refuse(404, 'no stream stands here');
    if (!this.connects.take()) return refuse(429, 'too many connections at once: try again');
    const visitor: Visitor = { headers: request.headers, query: target.query };
    const refusal = this.options.access.refuse(visitor);
    if (refusal) {
      this.log('a client was refused', { from: socket.remoteAddress, reason: refusal.reason });
      return refuse(refusal.status, refusal.reason);
    }
    if (this.clients >= MAX_CLIENTS) return refuse(503, `${MAX_CLIENTS} clients are connected`);
    const wishes = parseWishes(target.query);
    if (typeof wishes === 'string') return refuse(400, wishes);
    socket.setKeepAlive(true, 30_000);
    this.sockets.handleUpgrade(request, socket, head, (client) => {
      this.welcome(client, wishes.filter, wishes.resume);
      this.log('a client came', { from: socket.remoteAddress, clients: this.clients });
      client.on('close', (code) =>
        this.log('a client went', { from: socket.remoteAddress, code, clients: this.clients }),
      );
    });
  }

  // --- the stream

  private welcome(client: WebSocket, filter: StreamFilter | null, resume: Resume | null): void {
    const transport = {
      get buffered() {
        return client.bufferedAmount;
      },
      send: (message: Buffer, done: () => void) =>
        client.send(message, (error) => {
          if (!error) done();
        }),
    };
    const messages = new TokenBucket(...MESSAGE_RATE);
    this.seen.set(client, performance.now());
    client.on('pong', () => this.seen.set(client, performance.now()));
    // an error closes the connection, with the right code where there is one
    client.on('error', () => undefined);
    const subscriber = new Subscriber(this.options.channel, transport, filter, resume);
    client.on('close', () => subscriber.close());
    client.on('message', (data, isBinary) => {
      if (client.readyState !== client.OPEN) return;
      if (!messages.take()) return client.close(CLOSE.policy, 'too many messages');
      if (!isBinary) return client.close(CLOSE.unsupportedData, 'messages are binary');
      this.obey(client, subscriber, data as Buffer);
    });
  }

  private obey(client: WebSocket, subscriber: Subscriber, data: Buffer): void {
    let value: unknown;
    try {
      value = unpack(data);
    } catch {
      value = null;
    }
    if (typeof value !== 'object' || value === null || !('type' in value))
      return client.close(CLOSE.invalidPayload, 'that is no message');
    const { data: message, error } = clientMessageSchema.safeParse(value);
    const answer = message
      ? this.perform(subscriber, message)
      : refusal(String(value.type), describe(error));
    if (answer && !subscriber.answer(answer))
      client.close(CLOSE.policy, 'it asks and does not read');
  }

  /** @returns an answer where one is due */
  private perform(subscriber: Subscriber, message: ClientMessage): Buffer | null {
    const { control, channel } = this.options;
    switch (message.type) {
      case 'filter':
        subscriber.setFilter(message.filter);
        return null;
      case 'pause':
        if (control) control.pause(message.paused);
        else subscriber.paused = message.paused;
        return null;
      case 'seek':
        if (!control) return refusal('seek', 'the session is live');
        control.seek(message.ms);
        return null;
      case 'speed':
        if (!control) return refusal('speed', 'the session is live');
        control.speed(message.speed);
        return null;
      case 'evidence':
        return (
          channel.evidenceMessage(message.finding) ?? refusal('evidence', 'no such finding is kept')
        );
    }
  }

  private ping(): void {
    const now = performance.now();
    for (const client of this.sockets.clients) {
      if (now - this.seen.get(client)! > SILENT_MS) client.terminate();
      // one that does not read needs no more pings
      else if (client.bufferedAmount === 0) client.ping();
    }
  }

  private log(message: string, details: Record<string, unknown>): void {
    this.options.log?.(message, details);
  }
}

interface Target {
  /** as it was sent: nothing is decoded or resolved */
  pathname: string;
  query: URLSearchParams;
}

/** The request's target, null where it is no path. */
function parseTarget({ url = '' }: IncomingMessage): Target | null {
  if (!url.startsWith('/')) return null;
  const mark = url.indexOf('?');
  return mark < 0
    ? { pathname: url, query: new URLSearchParams() }
    : { pathname: url.slice(0, mark), query: new URLSearchParams(url.slice(mark)) };
}

/** What a client wants from the start: `?filter=` as JSON, `?session=…&after=…&findings=…` to go on. */
function parseWishes(
  query: URLSearchParams,
): { filter: StreamFilter | null; resume: Resume | null } | string {
  try {
    const filter = query.get('filter');
    return {
      filter: filter === null ? null : filterSchema.parse(JSON.parse(filter)),
      resume: query.has('session')
        ? resumeSchema.parse({
            session: query.get('session'),
            after: query.get('after') ?? -1,
            findings: query.get('findings') ?? 0,
          })
        : null,
    };
  } catch (error) {
    return error instanceof z.ZodError ? describe(error) : 'the query holds no JSON';
  }
}

function describe(error: z.ZodError): string {
  const [issue] = error.issues;
  const where = issue!.path.join('.');
  return `${where ? `${where}: ` : ''}${issue!.message}`.slice(0, 300);
}

function refusal(request: string, reason: string): Buffer {
  return pack({ type: 'refused', request: request.slice(0, 100), reason });
}

function challenge(status: number): Record<string, string> {
  return status === 401 ? { 'www-authenticate': 'Bearer' } : {};
}

function refuseUpgrade(socket: Duplex, status: number, reason: string): void {
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'connection: close',
    'content-type: text/plain; charset=utf-8',
    `content-length: ${Buffer.byteLength(reason) + 1}`,
    ...Object.entries(challenge(status)).map(([name, value]) => `${name}: ${value}`),
  ];
  socket.end(`${lines.join('\r\n')}\r\n\r\n${reason}\n`, () => socket.destroy());
}
