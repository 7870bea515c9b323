import { AT, type Cursor } from '../event/cursor.js';
import type { SessionHeader } from '../session/session.js';
import { isoMicroseconds, realTime } from './clock.js';
import { eventRow, proofRows } from './event-row.js';
import type { Format } from './format.js';
import type { Survey } from './survey.js';

/**
 * One JSON object per record, in order: an `EventRow`, or a fact as it is with its name as type.
 * `seq`, `time`, `timeNs`, `type` and `proves` are in every line.
 */
export class JsonLines implements Format {
  constructor(
    private readonly header: SessionHeader,
    private readonly survey: Survey,
  ) {}

  head(): Buffer {
    return Buffer.alloc(0);
  }

  record(cursor: Cursor): Buffer {
    const row = cursor.isEvent ? eventRow(cursor, this.header, this.survey) : this.otherRow(cursor);
    return Buffer.from(JSON.stringify(row) + '\n');
  }

  private otherRow(cursor: Cursor): object {
    const timeNs = realTime(cursor.bytes.readBigUInt64LE(cursor.base + AT.time), this.header);
    const fact = cursor.isFact ? cursor.fact() : null;
    return {
      seq: cursor.seq,
      time: isoMicroseconds(timeNs),
      timeNs: String(timeNs),
      // a kind of record that only a later version knows
      type: fact?.fact ?? `kind ${cursor.u8(AT.kind)}`,
      fact,
      proves: proofRows(cursor.seq, this.survey),
    };
  }
}
