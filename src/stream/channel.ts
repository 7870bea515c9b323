import { setTimeout as sleep } from 'node:timers/promises';
import type { Evidence, Finding, Unexplained } from '../explain/finding.js';
import { MIN_RECORD_BYTES, recordSize } from '../session/records.js';
import type { Batch, SessionHeader } from '../session/session.js';
import { StandingFacts } from '../session/standing-facts.js';
import { pack, packWithBytes } from './msgpack.js';
import type {
  EvidenceMessage,
  FindingMessage,
  HelloMessage,
  Playback,
  StreamFilter,
  UnexplainedMessage,
} from './protocol.js';
import { RecordFilter } from './record-filter.js';
import { Window } from './window.js';

/** A message of records is at most about so long; a single longer record travels alone. */
export const MESSAGE_BYTES = 256 << 10;
/** Records wait so long for others to travel with, ms. */
const GATHER_MS = 10;
const WINDOW_BYTES = 16 << 20;
/** Findings and unexplained entries kept for those who come late; the oldest go first. */
const MAX_FINDINGS = 1000;
/** Records kept as the evidence of findings, bytes. */
const EVIDENCE_BYTES = 16 << 20;
/** A client that took nothing for so long is not waited for, ms. */
const STALLED_MS = 1000;

interface Published {
  n: number;
  /** `unexplained` where there is none */
  verdict: string;
  message: Buffer;
  /** the records that prove it, by number */
  evidence: Map<number, Buffer>;
}

export interface ChannelOptions {
  /** version of this software */
  version: string;
  /** records kept for clients that lag or come back; 16 MiB */
  windowBytes?: number;
}

/** Who follows a channel at its own pace; see Subscriber. */
export interface Follower {
  /** bytes on their way to it in this process */
  readonly backlog: number;
  /** not all that there is was taken */
  readonly behind: boolean;
  /** performance.now() when it last took something */
  readonly lastProgress: number;
  /** From here on, anew. */
  begin(): void;
  /** Is to be told of that finding. */
  owe(finding: string): void;
  /** Is to be told how the replay stands. */
  owePlayback(): void;
  /** Takes what it can. */
  pump(): void;
}

/**
 * A session as it is told to every client: packed once, whatever their number. The clients
 * (Subscriber) take what they want from here at their own pace.
 */
export class Channel {
  readonly window: Window;
  readonly subscribers = new Set<Follower>();
  /** Wait for the clients rather than skip what they do not read: for a replay at full speed. */
  lossless = false;
  /** How a replay stands; null: live. */
  playback: (() => Playback) | null = null;
  private facts = new StandingFacts();
  private readonly findings = new Map<string, Published>();
  /** findings told so far, changed ones again */
  private told = 0;
  private evidenceBytes = 0;
  private waiting: Batch[] = [];
  private waitingBytes = 0;
  private timer: NodeJS.Timeout | null = null;
  private held = false;
  private ended_: string | null = null;
  private progress: (() => void)[] = [];

  constructor(
    readonly header: SessionHeader,
    private readonly options: ChannelOptions,
  ) {
    this.window = new Window(options.windowBytes ?? WINDOW_BYTES);
  }

  /** Why the session ended, null while it goes on. */
  get ended(): string | null {
    return this.held ? null : this.ended_;
  }

  /** Tells records; the batch's memory must stay as it is. */
  send(batch: Batch): void {
    this.facts.learn(batch);
    for (const part of cut(batch)) {
      const last = this.waiting.at(-1);
      if (
        this.waitingBytes + part.bytes.length > MESSAGE_BYTES ||
        (last && last.firstSeq + last.count !== part.firstSeq)
      )
        this.flush();
      this.waiting.push(part);
      this.waitingBytes += part.bytes.length;
    }
    if (this.waitingBytes >= MESSAGE_BYTES / 2) this.flush();
    else this.timer ??= setTimeout(() => this.flush(), GATHER_MS);
  }

  /** Tells a finding, after the records that came before it. */
  finding(finding: Finding): void {
    const claims = [...finding.chain, ...finding.ruledOut];
    this.publish(finding.id, finding.verdict, claims, { type: 'finding', finding });
  }

  /** Tells of an exchange without a verdict. */
  unexplained(entry: Unexplained): void {
    const told = { type: 'unexplained', unexplained: entry } as const;
    this.publish(entry.id, 'unexplained', entry.attempts, told);
  }

  /** The session is over; who comes now is told what was found. */
  end(reason: string): void {
    this.flush();
    this.ended_ = reason;
    if (!this.held) this.wake();
  }

  /** How a replay stands has changed: the clients are told. */
  tellPlayback(): void {
    if (!this.held) for (const each of this.subscribers) each.owePlayback();
  }

  /** Resolves when there is a client, or `signal` aborts. */
  async firstSubscriber(signal: AbortSignal): Promise<void> {
    const aborted = new Promise<void>((resolve) =>
      signal.addEventListener('abort', () => resolve()),
    );
    while (this.subscribers.size === 0 && !signal.aborted)
      await Promise.race([this.nextProgress(), aborted]);
  }

  /** What comes from now on is not told until release(): a replay goes to another place. */
  hold(): void {
    this.flush();
    this.held = true;
  }

  /** Forgets everything: the session is told from its start. */
  clear(): void {
    this.flush();
    this.facts = new StandingFacts();
    this.findings.clear();
    this.evidenceBytes = 0;
    this.ended_ = null;
    this.window.clear(0);
  }

  /** The clients begin anew, with what is known by now. */
  release(): void {
    this.flush();
    this.held = false;
    for (const each of this.subscribers) each.begin();
  }

  /** Resolves when the clients have taken what was sent; only where nothing may be skipped. */
  async ready(): Promise<void> {
    while (this.lossless && !this.held && [...this.subscribers].some((each) => this.waitsFor(each)))
      await Promise.race([this.nextProgress(), sleep(50)]);
  }

  // --- for subscribers

  hello(resumed: boolean): Buffer {
    const { seqs, records } = resumed ? { seqs: [], records: [] } : this.facts.records();
    const message: Omit<HelloMessage, 'facts'> = {
      type: 'hello',
      server: this.options.version,
      session: JSON.parse(JSON.stringify(this.header)) as SessionHeader,
      playback: this.playback?.() ?? null,
      nextSeq: this.window.next,
      resumed,
      findings: this.findings.size,
      factSeqs: seqs,
    };
    return packWithBytes(message, 'facts', records);
  }

  findingIds(): string[] {
    return [...this.findings.keys()];
  }

  findingMessage(id: string): { verdict: string; n: number; message: Buffer } | null {
    const found = this.findings.get(id);
    return found ? { verdict: found.verdict, n: found.n, message: found.message } : null;
  }

  playbackMessage(): Buffer {
    return pack({ type: 'playback', ...this.playback?.() });
  }

  evidenceMessage(id: string): Buffer | null {
    const found = this.findings.get(id);
    if (!found) return null;
    const sorted = [...found.evidence].sort(([a], [b]) => a - b);
    const message: Omit<EvidenceMessage, 'records'> = {
      type: 'evidence',
      finding: id,
      seqs: sorted.map(([seq]) => seq),
    };
    return packWithBytes(
      message,
      'records',
      sorted.map(([, record]) => record),
    );
  }

  filter(wish: StreamFilter): RecordFilter {
    return new RecordFilter(wish, (netns) => this.facts.netnsName(netns));
  }

  /** A subscriber has taken something. */
  progressed(): void {
    for (const resolve of this.progress.splice(0)) resolve();
  }

  // ---

  private publish(
    id: string,
    verdict: string,
    claims: readonly { evidence: readonly Evidence[] }[],
    told: Omit<FindingMessage, 'n'> | Omit<UnexplainedMessage, 'n'>,
  ): void {
    this.flush();
    const evidence = this.collect(claims, this.findings.get(id)?.evidence);
    const n = ++this.told;
    // a round trip through JSON leaves out what is undefined
    const message = pack(JSON.parse(JSON.stringify({ ...told, n })) as object);
    // what was told last stands last
    this.findings.delete(id);
    this.findings.set(id, { n, verdict, message, evidence });
    this.forgetOldest();
    if (!this.held) for (const each of this.subscribers) each.owe(id);
  }

  /** Resolves when a client comes, goes or takes something. */
  private nextProgress(): Promise<void> {
    return new Promise((resolve) => this.progress.push(resolve));
  }

  private waitsFor(subscriber: Follower): boolean {
    return subscriber.behind && performance.now() - subscriber.lastProgress < STALLED_MS;
  }

  private flush(): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
    const batches = this.waiting;
    const [first] = batches;
    if (!first) return;
    this.waiting = [];
    this.waitingBytes = 0;
    const count = batches.reduce((sum, batch) => sum + batch.count, 0);
    const bytes = batches.map((batch) => batch.bytes);
    const { firstSeq } = first;
    const message = packWithBytes({ type: 'records', firstSeq, count }, 'records', bytes);
    const length = bytes.reduce((sum, part) => sum + part.length, 0);
    this.window.push({ firstSeq, count, message, records: message.subarray(-length) });
    if (!this.held) this.wake();
  }

  private wake(): void {
    for (const each of this.subscribers) each.pump();
  }

  /** The records that these claims name, as far as they are still kept. */
  private collect(
    claims: readonly { evidence: readonly Evidence[] }[],
    known?: Map<number, Buffer>,
  ): Map<number, Buffer> {
    const evidence = new Map(known);
    for (const { session, seq } of claims.flatMap((claim) => claim.evidence)) {
      if (session !== this.header.id || evidence.has(seq)) continue;
      const record = this.window.record(seq);
      if (!record) continue;
      // a copy: the whole message must not stay for one record of it
      evidence.set(seq, Buffer.from(record));
      this.evidenceBytes += record.length;
    }
    return evidence;
  }

  private forgetOldest(): void {
    for (const [id, { evidence }] of this.findings) {
      if (this.evidenceBytes <= EVIDENCE_BYTES && this.findings.size <= MAX_FINDINGS) return;
      for (const record of evidence.values()) this.evidenceBytes -= record.length;
      evidence.clear();
      if (this.findings.size > MAX_FINDINGS) this.findings.delete(id);
    }
  }
}

/** The batch in parts that fit a message, cut between records. */
function* cut({ bytes, firstSeq, count }: Batch): Iterable<Batch> {
  if (bytes.length <= MESSAGE_BYTES || bytes.length < MIN_RECORD_BYTES) {
    if (count > 0) yield { bytes, firstSeq, count };
    return;
  }
  let start = 0;
  let seq = firstSeq;
  let first = firstSeq;
  for (let at = 0; at < bytes.length; seq++) {
    const end = at + recordSize(bytes, at);
    if (end - start > MESSAGE_BYTES && at > start) {
      yield { bytes: bytes.subarray(start, at), firstSeq: first, count: seq - first };
      start = at;
      first = seq;
    }
    at = end;
  }
  yield { bytes: bytes.subarray(start), firstSeq: first, count: seq - first };
}
