import {
  decodeFact,
  encodeFact,
  RECORD_FACT,
  type CountersFact,
  type Fact,
  type SettingsFact,
} from '../event/fact.js';
import { LAYOUT } from '../event/layout.js';
import { recordSize, recordTime } from './records.js';
import type { Batch } from './session.js';

const KIND = LAYOUT.kind[0];
/** Processes and symbols kept; the oldest are forgotten first. */
const MAX_EACH = 4096;

interface Standing {
  seq: number;
  /** CLOCK_MONOTONIC, ns */
  time: number;
  fact: Fact;
}

/**
 * What the facts of a session have told of the node by now, so that one who comes late, or a file
 * that begins in the middle, can read the events that follow. Settings and counters, of which only
 * changes are told, are put together under the number of the latest.
 */
export class StandingFacts {
  private readonly byKey = new Map<string, Standing>();
  private readonly ofKind = { process: 0, symbol: 0 };

  learn({ bytes, firstSeq }: Batch): void {
    let seq = firstSeq;
    for (let at = 0; at < bytes.length; at += recordSize(bytes, at)) {
      if (bytes[at + KIND] === RECORD_FACT)
        this.learnFact(seq, recordTime(bytes, at), decodeFact(bytes, at));
      seq++;
    }
  }

  learnFact(seq: number, time: number, fact: Fact): void {
    switch (fact.fact) {
      case 'netns':
        if (fact.gone) this.forgetNetns(fact.netns);
        else this.put(`netns/${fact.netns}`, { seq, time, fact });
        break;
      case 'device': {
        const key = `device/${fact.netns}/${fact.ifindex}`;
        if (fact.gone) this.byKey.delete(key);
        else this.put(key, { seq, time, fact });
        break;
      }
      case 'rules':
      case 'datapath':
      case 'sockets':
        this.put(`${fact.fact}/${fact.netns}`, { seq, time, fact });
        break;
      case 'settings':
      case 'counters': {
        const key = `${fact.fact}/${fact.netns}`;
        const before = this.byKey.get(key)?.fact as SettingsFact | CountersFact | undefined;
        const values = { ...before?.values, ...fact.values };
        this.put(key, { seq, time, fact: { ...fact, values } });
        break;
      }
      case 'process':
        this.putBounded('process', String(fact.pid), { seq, time, fact });
        break;
      case 'symbol':
        this.putBounded('symbol', fact.address, { seq, time, fact });
        break;
    }
  }

  /** As they stand now. */
  copy(): StandingFacts {
    const copy = new StandingFacts();
    for (const [key, standing] of this.byKey) copy.byKey.set(key, standing);
    Object.assign(copy.ofKind, this.ofKind);
    return copy;
  }

  /** Name of a network namespace, '' where none is known. */
  netnsName(netns: number): string {
    const fact = this.byKey.get(`netns/${netns}`)?.fact;
    return fact?.fact === 'netns' ? fact.name : '';
  }

  /** As records, in the order of their numbers. */
  records(): { seqs: number[]; records: Buffer[] } {
    const standing = [...this.byKey.values()].sort((a, b) => a.seq - b.seq);
    return {
      seqs: standing.map(({ seq }) => seq),
      records: standing.map(({ fact, time }) => encodeFact(fact, time)),
    };
  }

  /** Replaces an earlier one; what was told last stands last. */
  private put(key: string, standing: Standing): void {
    this.byKey.delete(key);
    this.byKey.set(key, standing);
  }

  private putBounded(kind: 'process' | 'symbol', name: string, standing: Standing): void {
    const key = `${kind}/${name}`;
    if (!this.byKey.has(key) && ++this.ofKind[kind] > MAX_EACH) this.forgetOldest(kind);
    this.put(key, standing);
  }

  private forgetOldest(kind: 'process' | 'symbol'): void {
    for (const [key, { fact }] of this.byKey)
      if (fact.fact === kind) {
        this.byKey.delete(key);
        this.ofKind[kind]--;
        return;
      }
  }

  private forgetNetns(netns: number): void {
    for (const [key, { fact }] of this.byKey)
      if ('netns' in fact && fact.netns === netns) this.byKey.delete(key);
  }
}
