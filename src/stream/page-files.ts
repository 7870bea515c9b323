import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import path from 'node:path';

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.json': 'application/json',
};

/** Nothing from elsewhere, no script in the page itself; the stream is of the same origin. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
  "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export const SECURITY_HEADERS = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
} as const;

interface PageFile {
  type: string;
  body: Buffer;
  tag: string;
}

/**
 * The page's files, read once: a request names one of them or nothing, so that no path leads out
 * of the folder.
 */
export class PageFiles {
  private readonly files = new Map<string, PageFile>();

  /** @param folder where the built page stands; none: there is no page */
  constructor(folder: URL | null) {
    if (!folder) return;
    for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      const type = TYPES[path.extname(name)];
      if (!type) continue;
      const body = readFileSync(new URL(name, folder));
      const tag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
      this.files.set(`/${name}`, { type, body, tag });
    }
    const index = this.files.get('/index.html');
    if (index) this.files.set('/', index);
  }

  /** Answers with the file of that path; false where there is none. */
  serve(pathname: string, known: string | undefined, response: ServerResponse): boolean {
    const file = this.files.get(pathname);
    if (!file) return false;
    const headers = { ...SECURITY_HEADERS, etag: file.tag, 'cache-control': 'no-cache' };
    if (known === file.tag) response.writeHead(304, headers).end();
    else
      response
        .writeHead(200, {
          ...headers,
          'content-type': file.type,
          'content-length': file.body.length,
        })
        .end(response.req.method === 'HEAD' ? undefined : file.body);
    return true;
  }
}
