/** How the second SNAT leaves the outer checksum wrong; see `remedies` for what cures which. */
export type Defect = 'legacy-zero-checksum' | 'udpcsum-not-updated';
