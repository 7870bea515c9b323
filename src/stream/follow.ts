import { setTimeout as sleep } from 'node:timers/promises';
import { SkbwhyError } from '../event/errors.js';
import { StreamClient, type ConnectOptions } from './client.js';
import type { Resume } from './subscriber.js';
import type { HelloMessage, ServerMessage, StreamFilter } from './protocol.js';

const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 5000;
/** Findings remembered as passed on. */
const MAX_SEEN = 10_000;

/** The connection is gone; it is tried again after this. */
export interface Disconnected {
  type: 'disconnected';
  why: string;
  retryMs: number;
}

export interface FollowOptions {
  token?: string | null;
  filter?: StreamFilter | null;
  signal: AbortSignal;
}

/**
 * The server's messages, whatever happens to the connection: it is made again, goes on where it
 * was, and nothing comes twice. Ends when a replay ends or `signal` aborts.
 * @throws SkbwhyError as StreamClient.connect, where the first connection is refused
 */
export async function* follow(
  address: string,
  { token, filter, signal }: FollowOptions,
): AsyncGenerator<ServerMessage | Disconnected, void> {
  const place = new Place();
  let retryMs = FIRST_RETRY_MS;
  let connected = false;
  while (!signal.aborted) {
    let why = 'the server closed the connection';
    try {
      const options: ConnectOptions = {
        token: token ?? null,
        filter: filter ?? null,
        resume: place.resume,
        signal,
      };
      const client = await StreamClient.connect(address, options);
      connected = true;
      for await (const message of client) {
        retryMs = FIRST_RETRY_MS;
        if (!place.take(message)) continue;
        yield message;
        if (message.type === 'end' && place.isReplay) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!connected || !(error instanceof SkbwhyError)) throw error;
      why = error.message;
    }
    if (signal.aborted) return;
    yield { type: 'disconnected', why, retryMs };
    // clients that lost one server do not all come back at once
    await sleep(retryMs * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
    retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS);
  }
}

/** What a client has by now. */
class Place {
  private hello: HelloMessage | null = null;
  private after = -1;
  private findings = 0;
  /** id → revision of what was passed on, also across sessions */
  private readonly seen = new Map<string, number>();

  get isReplay(): boolean {
    return this.hello?.playback != null;
  }

  get resume(): Resume | null {
    if (!this.hello) return null;
    return { session: this.hello.session.id, after: this.after, findings: this.findings };
  }

  /** False when it is there already. */
  take(message: ServerMessage): boolean {
    switch (message.type) {
      case 'hello':
        if (!message.resumed) {
          this.after = message.nextSeq - 1;
          this.findings = 0;
        }
        this.hello = message;
        return true;
      case 'records':
        this.after = message.seqs?.at(-1) ?? message.firstSeq + message.count - 1;
        return true;
      case 'lost':
        this.after = message.firstSeq + message.count - 1;
        return true;
      case 'finding': {
        const { id, revision } = message.finding;
        this.findings = Math.max(this.findings, message.n);
        const key = `${this.hello!.session.id}/${id}`;
        return this.isNew(key, revision);
      }
      case 'unexplained': {
        this.findings = Math.max(this.findings, message.n);
        const key = `${this.hello!.session.id}/${message.unexplained.id}`;
        return this.isNew(key, 1);
      }
      default:
        return true;
    }
  }

  private isNew(key: string, revision: number): boolean {
    if ((this.seen.get(key) ?? 0) >= revision) return false;
    this.seen.delete(key);
    this.seen.set(key, revision);
    if (this.seen.size > MAX_SEEN) this.seen.delete(this.seen.keys().next().value!);
    return true;
  }
}
