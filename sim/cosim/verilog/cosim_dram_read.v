// The AR and R channels of the memory model: queues bursts, asks for one beat after the other once a burst's latency
// has passed, and holds one beat for the master.

`default_nettype none

module cosim_dram_read #(
    parameter DATA_BITS    = 128,
    parameter ADDRESS_BITS = 40,
    parameter ID_BITS      = 2,
    parameter FIFO_DEPTH   = 32
) (
    input  wire                    clk,
    input  wire                    rst,
    input  wire [63:0]             now,
    input  wire [15:0]             latency,
    input  wire                    stall_ar,
    input  wire                    stall_r,

    output wire                    beat_wanted,
    input  wire                    beat_taken,
    output wire [ADDRESS_BITS-1:0] beat_address,
    input  wire  [1:0]             beat_response,
    input  wire [DATA_BITS-1:0]    beat_data,  // one cycle after beat_taken, stable until the next

    input  wire [ID_BITS-1:0]      axi_arid,
    input  wire [ADDRESS_BITS-1:0] axi_araddr,
    input  wire  [7:0]             axi_arlen,
    input  wire                    axi_arvalid,
    output wire                    axi_arready,
    output reg  [ID_BITS-1:0]      axi_rid,
    output wire [DATA_BITS-1:0]    axi_rdata,
    output reg   [1:0]             axi_rresp,
    output reg                     axi_rlast,
    output reg                     axi_rvalid,
    input  wire                    axi_rready
);
    localparam BEAT_BYTES = DATA_BITS / 8;

    wire                        push = axi_arvalid && axi_arready;
    wire                        last;
    wire [63:0]                 due;  // first cycle in which the burst's first beat may be taken
    wire [ID_BITS-1:0]          id;
    wire [ADDRESS_BITS-1:0]     address;
    wire  [7:0]                 len;
    wire [$clog2(FIFO_DEPTH):0] level;
    reg   [7:0]                 beat;

    cosim_fifo #(.WIDTH(64 + ID_BITS + ADDRESS_BITS + 8), .DEPTH(FIFO_DEPTH)) bursts (
        .clk(clk), .rst(rst), .push(push), .pop(beat_taken && last), .level(level),
        .tail({now + {48'd0, latency} - 64'd1, axi_arid, axi_araddr, axi_arlen}),
        .head({due, id, address, len})
    );

    assign axi_arready = level != FIFO_DEPTH && !stall_ar;
    assign last = beat == len;
    assign beat_address = {address[ADDRESS_BITS-1:$clog2(BEAT_BYTES)], {$clog2(BEAT_BYTES){1'b0}}} + beat * BEAT_BYTES;
    assign beat_wanted = level != 0 && now >= due && (!axi_rvalid || axi_rready) && !stall_r;
    assign axi_rdata = axi_rresp == 0 ? beat_data : {DATA_BITS{1'b0}};

    always @(posedge clk) begin
        if (axi_rvalid && axi_rready) axi_rvalid <= 0;
        if (beat_taken) begin
            beat <= last ? 8'd0 : beat + 8'd1;
            axi_rid <= id;
            axi_rresp <= beat_response;
            axi_rlast <= last;
            axi_rvalid <= 1;
        end
        if (rst) begin
            beat <= 0;
            axi_rvalid <= 0;
        end
    end
endmodule

`default_nettype wire
