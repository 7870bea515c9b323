import { decode, encode } from '@msgpack/msgpack';
import type { ClientMessage, ServerMessage } from '../stream/protocol.js';
import type { Resume } from '../stream/subscriber.js';

type Protocol = typeof import('../stream/protocol.js');
// as types only: the validators of the server are not needed here
const SUBPROTOCOL: Protocol['SUBPROTOCOL'] = 'skbwhy.v1';
const TOKEN_SUBPROTOCOL: Protocol['TOKEN_SUBPROTOCOL'] = 'skbwhy.token.';
const STREAM_PATH: Protocol['STREAM_PATH'] = '/stream';

const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 5000;
/** A live session tells the time once a second: one that says nothing for so long is gone. */
const SILENT_MS = 10_000;

export type ConnectionState =
  | { state: 'connecting' }
  | { state: 'open' }
  | { state: 'broken'; retryAt: number }
  /** the server is there and does not let us in */
  | { state: 'refused' };

export interface ConnectionEvents {
  message(message: ServerMessage): void;
  state(state: ConnectionState): void;
  /** where to go on; null: from the beginning */
  resume(): Resume | null;
  /** the session is live: silence means that the connection is gone */
  live(): boolean;
}

/** The stream of the server that this page came from; made again whenever it breaks. */
export class Connection {
  private socket: WebSocket | null = null;
  private retryMs = FIRST_RETRY_MS;
  private retry = 0;
  private heardAt = 0;

  constructor(
    private readonly events: ConnectionEvents,
    private token: string | null,
  ) {
    window.setInterval(() => this.listen(), 1000);
    window.addEventListener('online', () => this.connectNow());
  }

  connectNow(token = this.token): void {
    this.token = token;
    window.clearTimeout(this.retry);
    if (this.socket?.readyState === WebSocket.OPEN) return;
    this.connect();
  }

  send(message: ClientMessage): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(encode(message));
  }

  private connect(): void {
    this.drop();
    this.events.state({ state: 'connecting' });
    const url = new URL(STREAM_PATH, location.href);
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const resume = this.events.resume();
    if (resume)
      for (const [name, value] of Object.entries(resume)) url.searchParams.set(name, String(value));
    const carrier = this.token === null ? [] : [TOKEN_SUBPROTOCOL + base64url(this.token)];
    const socket = new WebSocket(url, [SUBPROTOCOL, ...carrier]);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.heardAt = performance.now();
      this.events.state({ state: 'open' });
    };
    socket.onmessage = ({ data }: MessageEvent<unknown>) => {
      this.heardAt = performance.now();
      this.retryMs = FIRST_RETRY_MS;
      if (data instanceof ArrayBuffer) this.events.message(decode(data) as ServerMessage);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      void this.broken(opened);
    };
  }

  private async broken(opened: boolean): Promise<void> {
    const delay = this.retryMs * (0.75 + Math.random() / 2);
    this.retryMs = Math.min(this.retryMs * 2, LONGEST_RETRY_MS);
    this.events.state({ state: 'broken', retryAt: performance.now() + delay });
    this.retry = window.setTimeout(() => this.connect(), delay);
    if (opened || !(await isThere())) return;
    if (this.socket === null || this.socket.readyState !== WebSocket.OPEN)
      this.events.state({ state: 'refused' });
  }

  /** Notices a connection that went without a word: a cable, a suspended machine. */
  private listen(): void {
    const silent = performance.now() - this.heardAt;
    if (this.socket?.readyState !== WebSocket.OPEN || silent < SILENT_MS || !this.events.live())
      return;
    this.drop();
    void this.broken(true);
  }

  private drop(): void {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }
}

async function isThere(): Promise<boolean> {
  try {
    return (await fetch('/healthz', { cache: 'no-store' })).ok;
  } catch {
    return false;
  }
}

function base64url(text: string): string {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}
