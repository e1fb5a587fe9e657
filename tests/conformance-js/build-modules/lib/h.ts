/** The least that JSX needs. */
export function h(name: string, attributes: Record<string, string> | null, ...children: string[]): string {
  const written = Object.entries(attributes ?? {}).map(([key, value]) => ` ${key}="${value}"`);
  return `<${name}${written.join("")}>${children.join("")}</${name}>`;
}
