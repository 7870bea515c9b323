/** Judgements at once, after a while without any. */
const BURST = 64;
/** Judgements a second in the long run: a fraction of a core, so that a live session's ring is drained meanwhile. */
const PER_SECOND = 250;

/**
 * How many judgements may be made, by the time that passes in the records and no other clock: a
 * recording is judged as it was live.
 */
export class JudgementPace {
  private left = BURST;

  /** @param ns that passed since it was told last */
  pass(ns: number): void {
    this.left = Math.min(BURST, this.left + (ns / 1e9) * PER_SECOND);
  }

  /** Takes one. @returns false: not now */
  take(): boolean {
    if (this.left < 1) return false;
    this.left--;
    return true;
  }
}
