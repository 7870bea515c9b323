import { z } from 'zod';
import { POINTS } from '../event/point.js';
import type { Finding, Unexplained } from '../explain/finding.js';
import type { Speed } from '../session/replay.js';
import type { SessionHeader } from '../session/session.js';

/** The protocol of the stream; docs/protocol.md describes it for those who write a client. */
export const SUBPROTOCOL = 'skbwhy.v1';
/** A second subprotocol offered by a browser carries the token: this and the token in base64url. */
export const TOKEN_SUBPROTOCOL = 'skbwhy.token.';
export const STREAM_PATH = '/stream';
export const DEFAULT_PORT = 6363;

/** Longest message a client may send, bytes. */
export const MAX_CLIENT_MESSAGE = 64 << 10;

/** Close codes of RFC 6455, section 7.4.1, as they are used here. */
export const CLOSE = {
  /** the session ended and the server goes */
  goingAway: 1001,
  /** a text frame came */
  unsupportedData: 1003,
  /** not MessagePack, or no message */
  invalidPayload: 1007,
  /** too many messages, or a client that gives no sign of life */
  policy: 1008,
  /** longer than MAX_CLIENT_MESSAGE */
  tooBig: 1009,
} as const;

const list = <T extends z.ZodType>(item: T) => z.array(item).max(256).optional();
const points = POINTS.filter((name) => name !== '');

/**
 * What a client wants. A record must match every key that is given, by any of its values. Facts
 * always come, since the events are read by them.
 */
export const filterSchema = z.strictObject({
  /** false: no records, only findings */
  records: z.boolean().optional(),
  points: list(z.enum(points)),
  /** inode numbers or names of network namespaces */
  netns: list(z.union([z.number().int().nonnegative(), z.string().max(256)])),
  /** addresses or prefixes (`10.0.0.0/8`) in the packet, inner and outer, or in its conntrack entry */
  addresses: list(z.union([z.ipv4(), z.ipv6(), z.cidrv4(), z.cidrv6()])),
  /** of TCP and UDP, in the same places */
  ports: list(z.number().int().min(0).max(65535)),
  /** findings of these only; `unexplained` stands for the exchanges without one */
  verdicts: list(z.string().max(100)),
});

/** What clients may send. */
export const clientMessageSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('filter'), filter: filterSchema.nullable() }),
  z.strictObject({ type: z.literal('pause'), paused: z.boolean() }),
  /** replay only: ms from the session's start */
  z.strictObject({ type: z.literal('seek'), ms: z.number().min(0) }),
  /** replay only */
  z.strictObject({
    type: z.literal('speed'),
    speed: z.union([z.number().positive().max(1e6), z.literal('max')]),
  }),
  /** the records that prove a finding, or belong to an unexplained entry, by its id */
  z.strictObject({ type: z.literal('evidence'), finding: z.string().max(200) }),
]);

export type StreamFilter = z.infer<typeof filterSchema>;
export type ClientMessage = z.infer<typeof clientMessageSchema>;

/** How a replay stands. */
export interface Playback {
  /** ms from the session's start */
  ms: number;
  durationMs: number;
  speed: Speed;
  paused: boolean;
  ended: boolean;
}

/** The first message, and again when the server begins anew (a seek): what came before is void. */
export interface HelloMessage {
  type: 'hello';
  /** version of the server's software */
  server: string;
  session: SessionHeader;
  /** how a replay stands; null: live */
  playback: Playback | null;
  /** number of the next record of the session */
  nextSeq: number;
  /** the client goes on where it was: no facts, no findings it has had */
  resumed: boolean;
  /** findings and unexplained entries that follow */
  findings: number;
  /** numbers of the fact records in `facts` */
  factSeqs: number[];
  /** what is known of the node by now, as records */
  facts: Uint8Array;
}

export interface RecordsMessage {
  type: 'records';
  firstSeq: number;
  count: number;
  /** the records' numbers where they do not follow each other, since the client filters */
  seqs?: number[];
  records: Uint8Array;
}

export interface FindingMessage {
  type: 'finding';
  /** counts what was told, from 1: a client that comes back says the last one it has */
  n: number;
  finding: Finding;
}

/** An exchange that failed or was slow without a verdict. */
export interface UnexplainedMessage {
  type: 'unexplained';
  /** counts on with those of findings */
  n: number;
  unexplained: Unexplained;
}

/** Records that this client does not get. */
export interface LostMessage {
  type: 'lost';
  firstSeq: number;
  count: number;
  /** the client read too slowly; or they are no longer kept, after a reconnect */
  reason: 'lag' | 'gone';
}

export interface PlaybackMessage extends Playback {
  type: 'playback';
}

export interface EvidenceMessage {
  type: 'evidence';
  finding: string;
  seqs: number[];
  records: Uint8Array;
}

/** A request that cannot be met. */
export interface RefusedMessage {
  type: 'refused';
  request: string;
  reason: string;
}

/** The session ended; a replay stays open and can be sought in. */
export interface EndMessage {
  type: 'end';
  reason: string;
}

export type ServerMessage =
  | HelloMessage
  | RecordsMessage
  | FindingMessage
  | UnexplainedMessage
  | LostMessage
  | PlaybackMessage
  | EvidenceMessage
  | RefusedMessage
  | EndMessage;

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'is not binary');
const seq = z.number().int().nonnegative();
const playback = {
  ms: z.number(),
  durationMs: z.number(),
  speed: z.union([z.number(), z.literal('max')]),
  paused: z.boolean(),
  ended: z.boolean(),
};
const object = z.record(z.string(), z.unknown());

/** What a client looks for in a server's message; other keys and types belong to later versions. */
export const serverMessageSchema = z.discriminatedUnion('type', [
  z.looseObject({
    type: z.literal('hello'),
    session: object,
    playback: z.looseObject(playback).nullable(),
    nextSeq: seq,
    resumed: z.boolean(),
    factSeqs: z.array(seq),
    facts: bytes,
  }),
  z.looseObject({
    type: z.literal('records'),
    firstSeq: seq,
    count: seq,
    seqs: z.array(seq).optional(),
    records: bytes,
  }),
  z.looseObject({
    type: z.literal('finding'),
    n: seq,
    finding: z.looseObject({ id: z.string(), revision: z.number(), verdict: z.string() }),
  }),
  z.looseObject({
    type: z.literal('unexplained'),
    n: seq,
    unexplained: z.looseObject({ id: z.string(), title: z.string() }),
  }),
  z.looseObject({ type: z.literal('lost'), firstSeq: seq, count: seq }),
  z.looseObject({ type: z.literal('playback'), ...playback }),
  z.looseObject({
    type: z.literal('evidence'),
    finding: z.string(),
    seqs: z.array(seq),
    records: bytes,
  }),
  z.looseObject({ type: z.literal('refused'), request: z.string(), reason: z.string() }),
  z.looseObject({ type: z.literal('end'), reason: z.string() }),
]);
