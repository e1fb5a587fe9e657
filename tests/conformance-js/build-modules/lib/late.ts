export const late = "came late";
