import { createHash, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import { SkbwhyError } from '../event/errors.js';
import { DEFAULT_PORT, TOKEN_SUBPROTOCOL } from './protocol.js';

/** An address to listen on. */
export interface ListenAddress {
  host: string;
  port: number;
}

/** Why a request is refused. */
export interface Refusal {
  status: 401 | 403;
  reason: string;
}

/** A request, as far as it matters for who may come in. */
export interface Visitor {
  headers: IncomingHttpHeaders;
  /** of the request's URL */
  query: URLSearchParams;
}

/**
 * Who may connect. Without a token only loopback is listened on, and what a browser brings from
 * another site is refused: by its Origin, and by a Host that is a name, which another site's name
 * server could have pointed here (DNS rebinding).
 */
export class Access {
  private readonly digest: Buffer | null;
  private readonly origins: Set<string>;

  /**
   * @param token null: none is asked for
   * @param origins further origins from which a browser's page may connect: `https://host`
   */
  constructor(token: string | null, origins: readonly string[] = []) {
    this.digest = token === null ? null : sha256(token);
    this.origins = new Set(origins);
  }

  get wantsToken(): boolean {
    return this.digest !== null;
  }

  /** For everything but what is public anyway. */
  refuse(visitor: Visitor): Refusal | null {
    return this.refuseSite(visitor) ?? this.refuseToken(visitor);
  }

  /** Refuses other sites' pages. */
  refuseSite({ headers }: Visitor): Refusal | null {
    const { host, origin } = headers;
    if (!this.wantsToken && !isAddress(host ?? ''))
      return {
        status: 403,
        reason: 'the Host must be an address or localhost, unless there is a token',
      };
    if (origin === undefined) return null;
    const own = origin === `http://${host}` || origin === `https://${host}`;
    if (own || this.origins.has(origin)) return null;
    return { status: 403, reason: 'this Origin is not allowed (--allow-origin)' };
  }

  private refuseToken({ headers, query }: Visitor): Refusal | null {
    if (this.digest === null) return null;
    const given = tokenOf(headers, query);
    if (given === null)
      return { status: 401, reason: 'a token is wanted, as Authorization: Bearer or ?token=' };
    if (timingSafeEqual(sha256(given), this.digest)) return null;
    return { status: 401, reason: 'wrong token' };
  }
}

/**
 * `host:port`, `[v6]:port`, `host` or `:port`.
 * @throws SkbwhyError 'bad-option'
 */
export function parseListen(text: string): ListenAddress {
  const match = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1] ?? (match?.[2] || '127.0.0.1');
  const port = Number(match?.[3] ?? DEFAULT_PORT);
  if (!match || port > 65535 || (host !== 'localhost' && isIP(host) === 0))
    throw new SkbwhyError(
      'bad-option',
      `--listen ${text} is no address: give one as 127.0.0.1:${DEFAULT_PORT} or [::1]:${DEFAULT_PORT}`,
    );
  return { host, port };
}

/** @throws SkbwhyError 'bad-option' where anybody could come in */
export function checkListen({ host }: ListenAddress, token: string | null): void {
  if (token !== null || isLoopback(host)) return;
  throw new SkbwhyError(
    'bad-option',
    `listening on ${host} lets others in: give a token by --token-file or SKBWHY_TOKEN`,
  );
}

/**
 * The token of a file's first line, else of SKBWHY_TOKEN, else null.
 * @throws SkbwhyError 'bad-option', 'file-unreadable'
 */
export async function readToken(file: string | undefined): Promise<string | null> {
  let token = process.env['SKBWHY_TOKEN'] ?? '';
  if (file !== undefined) {
    try {
      token = (await readFile(file, 'utf8')).split('\n')[0]!.trim();
    } catch (error) {
      throw new SkbwhyError(
        'file-unreadable',
        `the token file ${file} cannot be read (${(error as NodeJS.ErrnoException).code}): check its name and permissions`,
        { cause: error },
      );
    }
    if (token === '')
      throw new SkbwhyError('bad-option', `the token file ${file} is empty: its first line counts`);
  }
  return token === '' ? null : token;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

/** A Host header that names no name but localhost. */
function isAddress(host: string): boolean {
  const name = host.replace(/:\d+$/, '');
  return name === 'localhost' || isIP(name.replace(/^\[(.*)\]$/, '$1')) !== 0;
}

function tokenOf(headers: IncomingHttpHeaders, query: URLSearchParams): string | null {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '');
  if (bearer) return bearer[1]!;
  const inUrl = query.get('token');
  if (inUrl !== null) return inUrl;
  const offered = headers['sec-websocket-protocol']?.split(',').map((name) => name.trim());
  const carrier = offered?.find((name) => name.startsWith(TOKEN_SUBPROTOCOL));
  if (carrier === undefined) return null;
  return Buffer.from(carrier.slice(TOKEN_SUBPROTOCOL.length), 'base64url').toString();
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
