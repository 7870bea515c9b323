/** How an answer got past the NAT that its request went through. */
export type Way = 'bridged' | 'another-way' | 'not-tracked' | 'unknown';
