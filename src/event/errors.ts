/**
 * The one catalogue of errors a user can meet. Codes are stable: scripts may match them.
 * A message is one line: what is wrong, then what to do.
 */
export const ERRORS = {
  'bad-filter': { exitCode: 2 },
  'bad-option': { exitCode: 2 },
  'bad-session': { exitCode: 1 },
  'cannot-connect': { exitCode: 1 },
  'cannot-listen': { exitCode: 1 },
  'command-failed': { exitCode: 1 },
  'file-unreadable': { exitCode: 1 },
  'file-unwritable': { exitCode: 1 },
  interrupted: { exitCode: 1 },
  'kernel-refused': { exitCode: 1 },
  'lab-failed': { exitCode: 1 },
  'library-missing': { exitCode: 1 },
  'netns-missing': { exitCode: 1 },
  'no-btf': { exitCode: 1 },
  'no-lab': { exitCode: 1 },
  'no-privilege': { exitCode: 1 },
  'not-linux': { exitCode: 1 },
  'nothing-attached': { exitCode: 1 },
} as const satisfies Record<string, { exitCode: 1 | 2 }>;

export type ErrorCode = keyof typeof ERRORS;

/** An error with a code of the catalogue; the command line prints `skbwhy: message [code]`. */
export class SkbwhyError extends Error {
  override readonly name = 'SkbwhyError';
  readonly exitCode: 1 | 2;

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.exitCode = ERRORS[code].exitCode;
  }
}
