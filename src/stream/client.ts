import { EventEmitter, once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { isIPv6 } from 'node:net';
import { WebSocket } from 'ws';
import { conversionFrom, type Conversion } from '../event/conversion.js';
import { SkbwhyError } from '../event/errors.js';
import { LAYOUT } from '../event/layout.js';
import { printable } from '../session/file-error.js';
import { parseHeader } from '../session/header.js';
import { damageOf } from '../session/records.js';
import { pack, unpack } from './msgpack.js';
import {
  DEFAULT_PORT,
  serverMessageSchema,
  STREAM_PATH,
  SUBPROTOCOL,
  type ClientMessage,
  type ServerMessage,
  type StreamFilter,
} from './protocol.js';
import type { Resume } from './subscriber.js';

/** Longest message taken from a server, bytes. */
const MAX_SERVER_MESSAGE = 64 << 20;
/** Received and not yet taken by the caller, bytes: then the server is let wait. */
const MAX_WAITING = 4 << 20;
const HANDSHAKE_MS = 10_000;

export interface ConnectOptions {
  /** null or absent: none, or the one in the URL */
  token?: string | null;
  filter?: StreamFilter | null;
  resume?: Resume | null;
  signal?: AbortSignal;
}

/**
 * One connection to a daemon or a replay. Its iteration gives the server's messages, checked and
 * with records in this version's layout; it ends when the connection does.
 */
export class StreamClient implements AsyncIterable<ServerMessage> {
  private readonly waiting: { message: ServerMessage; bytes: number }[] = [];
  private waitingBytes = 0;
  private conversion: Conversion | null = null;
  private failure: SkbwhyError | null = null;
  private closed = false;
  private readonly news = new EventEmitter();

  private constructor(
    private readonly socket: WebSocket,
    /** address of the stream, without the token */
    readonly url: string,
  ) {
    socket.on('message', (data, isBinary) => this.receive(data as Buffer, isBinary));
    socket.on('close', () => {
      this.closed = true;
      this.news.emit('news');
    });
    socket.on('error', (error) => this.fail(error.message));
  }

  /**
   * @param address `http://host:port`, `ws://…` or `host:port`
   * @throws SkbwhyError 'bad-option', 'cannot-connect'
   */
  static async connect(address: string, options: ConnectOptions = {}): Promise<StreamClient> {
    const { url, token } = parseAddress(address, options.token ?? null);
    const shown = url.href;
    const { filter, resume, signal } = options;
    if (filter) url.searchParams.set('filter', JSON.stringify(filter));
    if (resume)
      for (const [name, value] of Object.entries(resume)) url.searchParams.set(name, String(value));
    const socket = new WebSocket(url, SUBPROTOCOL, {
      perMessageDeflate: false,
      maxPayload: MAX_SERVER_MESSAGE,
      handshakeTimeout: HANDSHAKE_MS,
      ...(token === null ? {} : { headers: { authorization: `Bearer ${token}` } }),
    });
    // created at once: the first message may come with the handshake
    const client = new StreamClient(socket, shown);
    const abort = (): void => socket.terminate();
    signal?.addEventListener('abort', abort);
    socket.once('close', () => signal?.removeEventListener('abort', abort));
    await new Promise<void>((resolve, reject) => {
      const refuse = (why: string, cause?: unknown): void =>
        reject(new SkbwhyError('cannot-connect', `cannot follow ${shown} (${why})`, { cause }));
      socket.once('open', resolve);
      socket.once('error', (error: NodeJS.ErrnoException) =>
        refuse(
          error.code === 'ECONNREFUSED'
            ? 'nobody listens there: is `skbwhy daemon` running?'
            : error.message,
          error,
        ),
      );
      socket.once('unexpected-response', (_request, response: IncomingMessage) => {
        void text(response).then((why) => {
          refuse(`HTTP ${response.statusCode}${why ? `: ${why}` : ''}`);
          socket.terminate();
        });
      });
    });
    return client;
  }

  send(message: ClientMessage): void {
    this.socket.send(pack(message));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ServerMessage, void> {
    try {
      for (;;) {
        const next = this.waiting.shift();
        if (next) {
          this.waitingBytes -= next.bytes;
          if (this.waitingBytes < MAX_WAITING / 2 && this.socket.isPaused) this.socket.resume();
          yield next.message;
        } else if (this.failure) throw this.failure;
        else if (this.closed) return;
        else await once(this.news, 'news');
      }
    } finally {
      this.close();
    }
  }

  close(): void {
    if (this.socket.isPaused) this.socket.terminate();
    else this.socket.close();
  }

  private receive(data: Buffer, isBinary: boolean): void {
    try {
      const message = isBinary ? this.read(unpack(data)) : null;
      if (!message) return;
      this.waiting.push({ message, bytes: data.length });
      this.waitingBytes += data.length;
      if (this.waitingBytes > MAX_WAITING) this.socket.pause();
      this.news.emit('news');
    } catch (error) {
      this.fail(`what it says cannot be read: ${(error as Error).message}`);
    }
  }

  /** The message, checked; null where it belongs to a later version. */
  private read(value: unknown): ServerMessage | null {
    const { data, error } = serverMessageSchema.safeParse(value);
    if (!data) {
      const [issue] = error.issues;
      if (issue!.code === 'invalid_union') return null;
      throw new Error(`${issue!.path.join('.')}: ${issue!.message}`);
    }
    const message = data as unknown as ServerMessage;
    switch (message.type) {
      case 'hello':
        message.session = parseHeader(JSON.stringify(message.session));
        this.conversion = conversionFrom(message.session.layout);
        message.session.layout = LAYOUT;
        message.facts = this.records(message.facts, message.factSeqs.length);
        break;
      case 'records':
        message.records = this.records(message.records, message.count);
        break;
      case 'evidence':
        message.records = this.records(message.records, message.seqs.length);
        break;
    }
    return message;
  }

  private records(bytes: Uint8Array, count: number): Buffer {
    let records: Buffer | null = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    if (this.conversion) records = this.conversion(records);
    const damage = records ? damageOf(records, count) : 'a damaged record';
    if (damage) throw new Error(damage);
    return records!;
  }

  private fail(why: string): void {
    this.failure ??= new SkbwhyError('cannot-connect', `the stream of ${this.url} broke (${why})`);
    this.socket.terminate();
    this.news.emit('news');
  }
}

/** The stream's URL, and the token that stood in it. */
export function parseAddress(
  address: string,
  token: string | null,
): { url: URL; token: string | null } {
  const bad = (): never => {
    throw new SkbwhyError(
      'bad-option',
      `${address} is no address of a daemon: give one as http://127.0.0.1:${DEFAULT_PORT}`,
    );
  };
  let url: URL;
  try {
    url = new URL(/^\w+:\/\//.test(address) ? address : `http://${withPort(address)}`);
  } catch {
    return bad();
  }
  if (!/^(https?|wss?):$/.test(url.protocol)) return bad();
  const stream = new URL(url.href.replace(/^http/, 'ws'));
  if (!stream.pathname.endsWith(STREAM_PATH))
    stream.pathname = stream.pathname.replace(/\/$/, '') + STREAM_PATH;
  const inUrl = stream.searchParams.get('token');
  stream.search = '';
  stream.hash = '';
  return { url: stream, token: token ?? inUrl };
}

/** Our own port where a bare host is given; a URL without one means its scheme's. */
function withPort(address: string): string {
  return /:\d+$|[/?]/.test(address) && !/^[0-9a-f:]+$/i.test(address)
    ? address
    : `${isIPv6(address) ? `[${address}]` : address}:${DEFAULT_PORT}`;
}

async function text(response: IncomingMessage): Promise<string> {
  if (!response.headers['content-type']?.startsWith('text/plain')) return 'no skbwhy answers there';
  let body = '';
  for await (const part of response.setEncoding('utf8')) {
    body += part as string;
    if (body.length > 300) break;
  }
  return printable(body.trim()).slice(0, 300);
}
