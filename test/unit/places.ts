import type { Place } from '../../src/faults/fault.js';

/** A namespace with nothing in it, but for what is told. */
export const place = (changes: Partial<Place> = {}): Place => ({
  netns: 'node',
  kernel: '6.18.44',
  devices: [],
  rules: null,
  settings: {},
  counters: {},
  resolvers: [],
  passing: [],
  ...changes,
});
