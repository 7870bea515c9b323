import { z } from 'zod';
import type { SessionHeader } from './session.js';

/** Text that can be printed: no control characters, which a hostile file could put in. */
// eslint-disable-next-line no-control-regex
const text = z.string().regex(/^[^\x00-\x1f\x7f-\x9f]*$/, 'contains control characters');
const offset = z.number().int().min(0).max(65535);

/** Keys that are not known here belong to a later version: allowed, and kept. */
const schema = z.looseObject({
  format: z.literal(1),
  id: text.min(1),
  node: text,
  boot: text,
  startedAt: text,
  kernel: z.looseObject({
    release: text,
    version: text,
    machine: text,
    hz: z.number().nonnegative(),
  }),
  clock: z.looseObject({ startNs: z.number(), realtimeOffsetUs: z.number() }),
  filter: text.nullable(),
  netns: z.array(text).nullable(),
  plan: z.array(
    z.looseObject({
      point: text,
      mechanism: text.nullable(),
      where: text,
      reason: text.optional(),
    }),
  ),
  layout: z.record(text, z.tuple([offset, offset])),
  reasons: z.record(text, text),
});

/**
 * The session header in `json`, with all its keys in their order.
 * Throws an Error that says in a few words what is wrong with it.
 */
export function parseHeader(json: string): SessionHeader {
  let header: unknown;
  try {
    header = JSON.parse(json);
  } catch {
    throw new Error('its header is not JSON');
  }
  const { error } = schema.safeParse(header);
  if (error) {
    const [issue] = error.issues;
    throw new Error(`its header has no valid "${issue!.path.join('.')}": ${issue!.message}`);
  }
  return header as SessionHeader;
}
