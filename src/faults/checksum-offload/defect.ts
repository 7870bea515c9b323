/** What became of the checksum between the two places. */
export type Defect =
  /** left to a device, which did not finish it */
  | 'not-finished'
  /** left to a device, which finished it wrongly */
  | 'miscalculated'
  /** it is the same, what it covers is not */
  | 'altered'
  /** it was finished, and is another */
  | 'rewritten'
  /** nothing was seen before */
  | 'wrong-on-arrival';
