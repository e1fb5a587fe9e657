/** @jsx h */
import { h } from "./lib/h";

export default function Page({ title }: { title: string }): string {
  return <h1 class="big">{title}</h1> as unknown as string;
}
