import type { Channel, Follower } from './channel.js';
import { pack, packWithBytes } from './msgpack.js';
import type { LostMessage, StreamFilter } from './protocol.js';
import type { RecordFilter } from './record-filter.js';
import type { Entry } from './window.js';

/** A client's backlog in this process is at most so long, bytes. */
export const BACKLOG_BYTES = 2 << 20;
/** Room a message may need; larger ones wait for an empty backlog. */
const ROOM_BYTES = 512 << 10;

/** The way to one client. */
export interface Transport {
  /** bytes accepted and not yet given to the network */
  readonly buffered: number;
  /** @param done called when the message has left */
  send(message: Buffer, done: () => void): void;
}

/** Where a client that comes back was. */
export interface Resume {
  session: string;
  /** number of the last record it has */
  after: number;
  /** `n` of the last finding it has */
  findings: number;
}

/**
 * One client: a place in the channel's window and what is owed to it. Nothing is queued for it
 * beyond its backlog, so that it costs no memory however slowly it reads; what has left the window
 * by the time it reads again is told as lost, with its number.
 */
export class Subscriber implements Follower {
  /** performance.now() when the client last took something */
  lastProgress = performance.now();
  private nextSeq = 0;
  private filter: RecordFilter | null = null;
  private paused_ = false;
  private hello: Buffer | null = null;
  private lost: LostMessage | null = null;
  private findings = new Set<string>();
  private playback = false;
  private ended = false;
  private closed = false;

  constructor(
    private readonly channel: Channel,
    private readonly transport: Transport,
    wish: StreamFilter | null = null,
    resume: Resume | null = null,
  ) {
    this.setFilter(wish);
    if (resume && resume.session === channel.header.id && resume.after < channel.window.next)
      this.goOn(resume);
    else this.begin();
    channel.subscribers.add(this);
    channel.progressed();
    this.pump();
  }

  close(): void {
    this.closed = true;
    this.channel.subscribers.delete(this);
    this.channel.progressed();
  }

  /** Bytes on their way to this client in this process. */
  get backlog(): number {
    return this.transport.buffered;
  }

  /** There is something that could be sent and is not. */
  get behind(): boolean {
    return !this.paused_ && !this.closed && this.owes;
  }

  /** The client begins anew: what it had is void. */
  begin(): void {
    this.hello = this.channel.hello(false);
    this.lost = null;
    this.findings = new Set(this.channel.findingIds());
    this.playback = false;
    this.ended = false;
    this.nextSeq = this.channel.window.next;
    this.pump();
  }

  private goOn({ after, findings }: Resume): void {
    const { window } = this.channel;
    this.hello = this.channel.hello(true);
    this.nextSeq = after + 1;
    if (this.nextSeq < window.oldest) this.skip(window.oldest, 'gone');
    for (const id of this.channel.findingIds())
      if (this.channel.findingMessage(id)!.n > findings) this.findings.add(id);
  }

  owe(finding: string): void {
    // told again at the end of the line
    this.findings.delete(finding);
    this.findings.add(finding);
    this.pump();
  }

  owePlayback(): void {
    this.playback = true;
    this.pump();
  }

  setFilter(wish: StreamFilter | null): void {
    this.filter = wish ? this.channel.filter(wish) : null;
  }

  /** Holds this client's stream; the others go on. */
  set paused(paused: boolean) {
    this.paused_ = paused;
    this.pump();
  }

  /** Sends what is owed as long as the client takes it. */
  pump(): void {
    while (!this.paused_ && !this.closed && this.owes) {
      const { buffered } = this.transport;
      if (buffered > 0 && buffered + ROOM_BYTES > BACKLOG_BYTES) return;
      const message = this.take();
      if (message) this.transport.send(message, this.taken);
    }
  }

  /** Answers a request, out of line; false when the client does not read its answers. */
  answer(message: Buffer): boolean {
    if (this.transport.buffered + message.length > BACKLOG_BYTES) return false;
    this.transport.send(message, this.taken);
    return true;
  }

  private readonly taken = (): void => {
    this.lastProgress = performance.now();
    this.pump();
    this.channel.progressed();
  };

  private get owes(): boolean {
    return (
      this.hello !== null ||
      this.lost !== null ||
      this.findings.size > 0 ||
      this.nextSeq < this.channel.window.next ||
      this.playback ||
      (this.channel.ended !== null && !this.ended)
    );
  }

  /** The next message; null when there was one that this client does not want. */
  private take(): Buffer | null {
    if (this.hello) {
      const hello = this.hello;
      this.hello = null;
      return hello;
    }
    if (this.lost) {
      const lost = this.lost;
      this.lost = null;
      return pack(lost);
    }
    if (this.playback) {
      this.playback = false;
      return this.channel.playbackMessage();
    }
    for (const id of this.findings) {
      this.findings.delete(id);
      const found = this.channel.findingMessage(id);
      return found && (this.filter?.wantsVerdict(found.verdict) ?? true) ? found.message : null;
    }
    const { window } = this.channel;
    if (this.nextSeq < window.next) return this.takeRecords();
    this.ended = true;
    return pack({ type: 'end', reason: this.channel.ended! });
  }

  private takeRecords(): Buffer | null {
    const { window } = this.channel;
    if (this.filter?.findingsOnly) {
      this.nextSeq = window.next;
      return null;
    }
    if (this.nextSeq < window.oldest) {
      // what is left of the window would be gone before it is read, too
      this.skip(window.next, 'lag');
      return null;
    }
    const entry = window.at(this.nextSeq)!;
    const from = this.nextSeq;
    this.nextSeq = entry.firstSeq + entry.count;
    if (!this.filter && from <= entry.firstSeq) return entry.message;
    return this.select(entry, from);
  }

  /** The part of an entry that this client wants and does not have. */
  private select(entry: Entry, from: number): Buffer | null {
    const filter = this.filter ?? this.channel.filter({});
    const { seqs, parts } = filter.select(entry.records, entry.firstSeq, from);
    const firstSeq = seqs[0];
    if (firstSeq === undefined) return null;
    const count = seqs.length;
    const gapless = seqs.at(-1)! - firstSeq === count - 1;
    const head = { type: 'records', firstSeq, count, ...(gapless ? {} : { seqs }) };
    return packWithBytes(head, 'records', parts);
  }

  private skip(to: number, reason: LostMessage['reason']): void {
    this.lost = { type: 'lost', firstSeq: this.nextSeq, count: to - this.nextSeq, reason };
    this.nextSeq = to;
  }
}
