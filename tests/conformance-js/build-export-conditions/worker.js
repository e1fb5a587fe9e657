import where from "pick";
import { name } from "pick/sub";

export default {
  async fetch() {
    return Response.json({ where, name });
  },
};
