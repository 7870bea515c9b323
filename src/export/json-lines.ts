import { AT, type Cursor } from '../event/cursor.js';
import type { SessionHeader } from '../session/session.js';
import { isoMicroseconds, realTime } from './clock.js';
import { eventRow } from './event-row.js';
import type { Format } from './format.js';
import type { Survey } from './survey.js';

/**
 * One JSON object per record, in order: an `EventRow`, or a fact as it is with its name as type.
 * `seq`, `time`, `timeNs` and `type` are in every line.
 */
export class JsonLines implements Format {
  constructor(
    private readonly header: SessionHeader,
    private readonly survey: Survey,
  ) {}

  head(): Buffer {
    return Buffer.alloc(0);
  }

  record(cursor: Cursor): Buffer | null {
    const row = cursor.isFact ? this.fact(cursor) : eventRow(cursor, this.header, this.survey);
    return row && Buffer.from(JSON.stringify(row) + '\n');
  }

  private fact(cursor: Cursor): object {
    const timeNs = realTime(cursor.bytes.readBigUInt64LE(cursor.base + AT.time), this.header);
    const fact = cursor.fact();
    return {
      seq: cursor.seq,
      time: isoMicroseconds(timeNs),
      timeNs: String(timeNs),
      type: fact.fact,
      fact,
    };
  }
}
