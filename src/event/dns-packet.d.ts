// dns-packet is JavaScript; what is used of it.
declare module 'dns-packet' {
  export const name: {
    /** Decodes the name at `offset`, compression followed; throws RangeError on a broken one. */
    decode(bytes: Uint8Array, offset: number): string;
  };
}
