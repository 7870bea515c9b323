import { SkbwhyError } from '../event/errors.js';

/** A path as it can stand in a line of text. */
export function printable(path: string): string {
  // eslint-disable-next-line no-control-regex
  return path.replace(/[\x00-\x1f\x7f-\x9f]/g, '?');
}

/** The operating system's refusal as an error for people; an error that is one already stays. */
export function fileError(
  code: 'file-unreadable' | 'file-unwritable',
  path: string,
  cause: unknown,
  advice: string,
): SkbwhyError {
  if (cause instanceof SkbwhyError) return cause;
  const verb = code === 'file-unreadable' ? 'read' : 'written';
  // Node's messages end with the system call and the path: `ENOENT: no such file…, open '…'`
  const why = cause instanceof Error ? cause.message.split(/, \w+/)[0]! : String(cause);
  const line = `${printable(path)} cannot be ${verb} (${printable(why)}): ${advice}`;
  return new SkbwhyError(code, line, { cause });
}
