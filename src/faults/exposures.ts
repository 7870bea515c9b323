import type { Exposure, ExposureReport, Place } from './fault.js';

/** A namespace, or a device of it, in which the fault can strike; an upgrade alone is no cure unless told. */
export function exposedTo(
  verdict: string,
  { netns }: Place,
  exposure: Pick<Exposure, 'confidence' | 'why' | 'remedies'> &
    Partial<Pick<Exposure, 'defect' | 'enough'>> & { device?: string },
): Exposure {
  const { device = null, enough = { kubernetes: false, kernel: false }, ...rest } = exposure;
  return { verdict, where: { netns, device }, ...rest, enough };
}

/** What is to be told of a namespace (or a device of it) in which the fault cannot strike. */
export function notExposedTo(
  verdict: string,
  { netns }: Place,
  why: string | string[],
  device: string | null = null,
): ExposureReport {
  return { exposures: [], unexposed: [{ verdict, where: { netns, device }, why: [why].flat() }] };
}

export const onlyExposed = (...exposures: Exposure[]): ExposureReport => ({
  exposures,
  unexposed: [],
});
