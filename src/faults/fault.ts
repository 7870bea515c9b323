import type { Diagnoser } from '../explain/diagnose.js';
import type { LabDefinition } from '../lab/lab.js';

/** A known cause, with everything about it in its folder. `src/faults/<verdict>/index.ts` exports one as `fault`. */
export interface Fault {
  /** kebab-case; the folder's name */
  verdict: string;
  title: string;
  diagnoser: Diagnoser;
  lab: LabDefinition;
}
