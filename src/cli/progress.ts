import { Presets, SingleBar } from 'cli-progress';

/** Work that ends sooner shows no bar. */
const AFTER_MS = 500;

/**
 * A bar on a terminal's standard error, once the work has lasted a while; otherwise nothing.
 * `update` takes the share done, 0 to 1.
 */
export class Progress {
  private readonly startedAt = performance.now();
  private bar: SingleBar | null = null;

  constructor(private readonly what: string) {}

  update(share: number): void {
    if (!process.stderr.isTTY) return;
    if (!this.bar) {
      if (performance.now() - this.startedAt < AFTER_MS) return;
      this.bar = new SingleBar(
        {
          format: `${this.what} {bar} {percentage} %`,
          stream: process.stderr,
          clearOnComplete: true,
          // nothing of the terminal's that a signal would leave changed
          linewrap: true,
        },
        Presets.shades_classic,
      );
      this.bar.start(1, 0);
    }
    this.bar.update(Math.min(share, 1));
  }

  /** Takes the bar away. */
  stop(): void {
    this.bar?.stop();
    this.bar = null;
  }
}
