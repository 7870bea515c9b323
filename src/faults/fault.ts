import type { Diagnoser } from '../explain/diagnose.js';
import type { Confidence, Remedy } from '../explain/finding.js';
import type { DeviceFact, RulesFact } from '../event/fact.js';
import type { Resolver } from '../host/resolvers.js';
import type { LabDefinition } from '../lab/lab.js';

/** A network namespace as an exposure is judged by: what it is made of, no packet needed. */
export interface Place {
  /** its name */
  netns: string;
  /** kernel release, as uname -r prints it */
  kernel: string;
  devices: readonly DeviceFact[];
  rules: RulesFact | null;
  settings: Readonly<Record<string, string>>;
  /** those that are not zero, as in counters facts */
  counters: Readonly<Record<string, number>>;
  /** how names are looked up here, and in namespaces that are not examined themselves (pods) */
  resolvers: readonly Resolver[];
  /** those of every namespace looked into: whose packets may pass here */
  passing: readonly Resolver[];
}

/** A namespace in which a fault can strike, before any packet is lost. */
export interface Exposure {
  verdict: string;
  defect?: string;
  where: { netns: string; device: string | null };
  /** `proved`: every condition was read here; lower where one had to be taken to hold */
  confidence: Confidence;
  /** the conditions, one sentence each */
  why: string[];
  /** is an upgrade of this alone a cure here? */
  enough: { kubernetes: boolean; kernel: boolean };
  remedies: Remedy[];
}

/** A namespace (or device) in which a fault cannot strike, and why not. */
export interface Unexposed {
  verdict: string;
  where: { netns: string; device: string | null };
  why: string[];
}

export interface ExposureReport {
  exposures: Exposure[];
  unexposed: Unexposed[];
}

/** A known cause, with everything about it in its folder. `src/faults/<verdict>/index.ts` exports one as `fault`. */
export interface Fault {
  /** kebab-case; the folder's name */
  verdict: string;
  title: string;
  diagnoser: Diagnoser;
  /** says without any traffic whether the fault can strike in a namespace */
  exposure?(place: Place): ExposureReport;
  lab: LabDefinition;
}
