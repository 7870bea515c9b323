import type { Cursor } from '../event/cursor.js';

/** A way to write a session: what the output begins with, then something for each record, or nothing. */
export interface Format {
  head(): Buffer;
  record(cursor: Cursor): Buffer | null;
}
