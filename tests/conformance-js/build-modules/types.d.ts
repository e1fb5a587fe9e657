declare module "*.txt" {
  const text: string;
  export default text;
}

declare module "*.html" {
  const text: string;
  export default text;
}

declare module "#text" {
  export function shout(text: string): string;
}

declare namespace JSX {
  interface IntrinsicElements {
    [name: string]: unknown;
  }
}
