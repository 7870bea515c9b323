import type { Evidence, Finding, Unexplained } from '../explain/finding.js';
import type { Playback, ServerMessage } from '../stream/protocol.js';
import type { Resume } from '../stream/subscriber.js';
import { SessionRecords } from './records.js';

/** Entries kept; the oldest go first. */
const MAX_ENTRIES = 1000;

interface Told {
  /** unique on this page, also across sessions */
  key: string;
  records: SessionRecords;
  /** counts what came, so that the latest can be told */
  order: number;
  /** the server was asked for the records that are not here */
  asked: boolean;
}

export interface FindingEntry extends Told {
  kind: 'finding';
  finding: Finding;
}

export interface UnexplainedEntry extends Told {
  kind: 'unexplained';
  unexplained: Unexplained;
}

export type Entry = FindingEntry | UnexplainedEntry;

/** Findings with one root. */
export interface Cause {
  key: string;
  /** the longest delay first */
  findings: FindingEntry[];
  worst: FindingEntry;
}

/** All that the server has told, as far as this page keeps it. */
export class Board {
  readonly entries = new Map<string, Entry>();
  /** the session that is followed now; null before the first word of the server */
  records: SessionRecords | null = null;
  playback: Playback | null = null;
  /** version of the server */
  server = '';
  /** why the session ended */
  ended: string | null = null;
  /** records that came too fast for this page, or were gone when it came back */
  skipped = 0;
  private after = -1;
  private lastTold = 0;
  private order = 0;

  /** Where to go on after the connection broke. */
  get resume(): Resume | null {
    if (!this.records) return null;
    return { session: this.records.header.id, after: this.after, findings: this.lastTold };
  }

  /** Takes a message in. @returns the entry that is new or changed */
  take(message: ServerMessage): Entry | null {
    switch (message.type) {
      case 'hello':
        this.hello(message);
        break;
      case 'records':
        this.after = message.firstSeq + message.count - 1;
        this.records?.take(message.firstSeq, message.count, message.records);
        break;
      case 'lost':
        this.after = message.firstSeq + message.count - 1;
        this.skipped += message.count;
        break;
      case 'finding':
        this.lastTold = Math.max(this.lastTold, message.n);
        return this.finding(message.finding);
      case 'unexplained':
        this.lastTold = Math.max(this.lastTold, message.n);
        return this.unexplained(message.unexplained);
      case 'evidence':
        this.records?.takeEvidence(message.seqs, message.records);
        break;
      case 'playback':
        this.playback = message;
        if (!message.ended) this.ended = null;
        break;
      case 'end':
        this.ended = message.reason;
        break;
    }
    return null;
  }

  /** Findings by root, the latest told first. */
  causes(): Cause[] {
    const groups = new Map<string, FindingEntry[]>();
    for (const entry of this.entries.values()) {
      if (entry.kind !== 'finding') continue;
      const key = `${entry.records.header.id}/${entry.finding.cause}`;
      const group = groups.get(key);
      if (group) group.push(entry);
      else groups.set(key, [entry]);
    }
    const latest = (cause: Cause): number => Math.max(...cause.findings.map((e) => e.order));
    return [...groups]
      .map(([key, findings]) => {
        findings.sort((a, b) => b.finding.delayMs - a.finding.delayMs);
        return { key, findings, worst: findings[0]! };
      })
      .sort((a, b) => latest(b) - latest(a));
  }

  /** Exchanges without a verdict, the latest told first. */
  unexplainedEntries(): UnexplainedEntry[] {
    return [...this.entries.values()]
      .filter((entry) => entry.kind === 'unexplained')
      .sort((a, b) => b.order - a.order);
  }

  private hello(message: Extract<ServerMessage, { type: 'hello' }>): void {
    this.server = message.server;
    this.playback = message.playback;
    this.ended = null;
    if (message.resumed) return;
    const before = this.records;
    this.records = new SessionRecords(message.session);
    if (before?.header.id === message.session.id) {
      // the server begins anew: what it said of this session is void
      for (const [key, entry] of this.entries)
        if (entry.records === before) this.entries.delete(key);
    }
    this.records.learn(message.factSeqs, message.facts);
    this.after = message.nextSeq - 1;
    this.lastTold = 0;
  }

  private finding(finding: Finding): Entry | null {
    const told = this.told(finding.id);
    if (!told) return null;
    told.records.hold(evidenceOf(finding));
    return this.put({ ...told, kind: 'finding', finding });
  }

  private unexplained(unexplained: Unexplained): Entry | null {
    const told = this.told(unexplained.id);
    if (!told) return null;
    told.records.hold(unexplained.attempts.flatMap(({ evidence }) => evidence));
    return this.put({ ...told, kind: 'unexplained', unexplained });
  }

  private told(id: string): Told | null {
    const { records } = this;
    if (!records) return null;
    return { key: `${records.header.id}/${id}`, records, order: ++this.order, asked: false };
  }

  private put(entry: Entry): Entry {
    this.entries.set(entry.key, entry);
    for (const key of this.entries.keys()) {
      if (this.entries.size <= MAX_ENTRIES) break;
      this.entries.delete(key);
    }
    return entry;
  }
}

/** Every record that a finding names, once each, in the order of their numbers. */
export function evidenceOf(finding: Finding): Evidence[] {
  return inOrder([...finding.chain, ...finding.ruledOut].flatMap(({ evidence }) => evidence));
}

/** Once each, in the order of their numbers. */
export function inOrder(evidence: readonly Evidence[]): Evidence[] {
  const once = new Map(evidence.map((each) => [`${each.session}/${each.seq}`, each]));
  return [...once.values()].sort((a, b) => a.seq - b.seq);
}
